fn main() {
    let mut buffer = itoa::Buffer::new();
    println!("{} planks on {}", buffer.format(41 + 1), std::env::consts::ARCH);
}
