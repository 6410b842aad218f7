//! The functions that bake files can call: those of buildx, by name.
//!
//! `try`, `can` and `convert` look at expressions and not at values, so [`super::eval`] has them.

mod encoding;
mod lists;
mod net;
mod numbers;
mod semver;
mod sets;
mod text;
mod time;

use super::value::Value;

/// What functions may know of the world.
pub struct World<'a> {
    /// A variable of the environment.
    pub variable: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// Seconds since 1970.
    pub now: i64,
    /// The home directory.
    pub home: Option<String>,
    /// Random bytes, for uuidv4.
    pub random: &'a (dyn Fn() -> [u8; 16] + Sync),
    /// A text file that a compose file names, by its path from where the bake files are.
    pub file: &'a (dyn Fn(&str) -> Result<String, String> + Sync),
}

/// What a function gives.
type Answer = Result<Value, String>;

/// A function: how many arguments it takes, and what it does.
struct Function {
    name: &'static str,
    least: usize,
    most: usize,
    run: fn(&World<'_>, &[Value]) -> Answer,
}

/// Any number of arguments.
const ANY: usize = usize::MAX;

const fn function(
    name: &'static str,
    least: usize,
    most: usize,
    run: fn(&World<'_>, &[Value]) -> Answer,
) -> Function {
    Function { name, least, most, run }
}

/// Functions of buildx that are not here, with the way out.
const REFUSED: [(&str, &str); 2] = [
    ("bcrypt", "compute it outside, and hand it in as a variable"),
    ("rsadecrypt", "decrypt it outside, and hand it in as a variable"),
];

const FUNCTIONS: &[Function] = &[
    function("absolute", 1, 1, numbers::absolute),
    function("add", 2, 2, numbers::add),
    function("and", 2, 2, numbers::and),
    function("base64decode", 1, 1, encoding::base64decode),
    function("base64encode", 1, 1, encoding::base64encode),
    function("basename", 1, 1, text::basename),
    function("byteslen", 1, 1, text::byteslen),
    function("bytesslice", 3, 3, text::bytesslice),
    function("ceil", 1, 1, numbers::ceil),
    function("chomp", 1, 1, text::chomp),
    function("chunklist", 2, 2, lists::chunklist),
    function("cidrhost", 2, 2, net::cidrhost),
    function("cidrnetmask", 1, 1, net::cidrnetmask),
    function("cidrsubnet", 3, 3, net::cidrsubnet),
    function("cidrsubnets", 1, ANY, net::cidrsubnets),
    function("coalesce", 1, ANY, lists::coalesce),
    function("coalescelist", 1, ANY, lists::coalescelist),
    function("compact", 1, 1, lists::compact),
    function("concat", 1, ANY, lists::concat),
    function("contains", 2, 2, lists::contains),
    function("csvdecode", 1, 1, encoding::csvdecode),
    function("dirname", 1, 1, text::dirname),
    function("distinct", 1, 1, lists::distinct),
    function("divide", 2, 2, numbers::divide),
    function("element", 2, 2, lists::element),
    function("equal", 2, 2, numbers::equal),
    function("flatten", 1, 1, lists::flatten),
    function("floor", 1, 1, numbers::floor),
    function("format", 1, ANY, text::format),
    function("formatdate", 2, 2, time::formatdate),
    function("formatlist", 1, ANY, text::formatlist),
    function("formattimestamp", 2, 2, time::formattimestamp),
    function("greaterthan", 2, 2, numbers::greaterthan),
    function("greaterthanorequalto", 2, 2, numbers::greaterthanorequalto),
    function("hasindex", 2, 2, lists::hasindex),
    function("homedir", 0, 0, text::homedir),
    function("indent", 2, 2, text::indent),
    function("index", 2, 2, lists::index),
    function("indexof", 2, 2, lists::indexof),
    function("int", 1, 1, numbers::int),
    function("join", 1, ANY, text::join),
    function("jsondecode", 1, 1, encoding::jsondecode),
    function("jsonencode", 1, 1, encoding::jsonencode),
    function("keys", 1, 1, lists::keys),
    function("length", 1, 1, lists::length),
    function("lessthan", 2, 2, numbers::lessthan),
    function("lessthanorequalto", 2, 2, numbers::lessthanorequalto),
    function("log", 2, 2, numbers::log),
    function("lookup", 2, 3, lists::lookup),
    function("lower", 1, 1, text::lower),
    function("max", 1, ANY, numbers::max),
    function("md5", 1, 1, encoding::md5),
    function("merge", 0, ANY, lists::merge),
    function("min", 1, ANY, numbers::min),
    function("modulo", 2, 2, numbers::modulo),
    function("multiply", 2, 2, numbers::multiply),
    function("negate", 1, 1, numbers::negate),
    function("not", 1, 1, numbers::not),
    function("notequal", 2, 2, numbers::notequal),
    function("or", 2, 2, numbers::or),
    function("parseint", 2, 2, numbers::parseint),
    function("pow", 2, 2, numbers::pow),
    function("range", 1, 3, lists::range),
    function("regex", 2, 2, text::regex),
    function("regex_replace", 3, 3, text::regex_replace),
    function("regexall", 2, 2, text::regexall),
    function("replace", 3, 3, text::replace),
    function("reverse", 1, 1, text::reverse),
    function("reverselist", 1, 1, lists::reverselist),
    function("sanitize", 1, 1, text::sanitize),
    function("semvercmp", 2, 2, semver::semvercmp),
    function("sethaselement", 2, 2, sets::sethaselement),
    function("setintersection", 1, ANY, sets::setintersection),
    function("setproduct", 1, ANY, sets::setproduct),
    function("setsubtract", 2, 2, sets::setsubtract),
    function("setsymmetricdifference", 1, ANY, sets::setsymmetricdifference),
    function("setunion", 1, ANY, sets::setunion),
    function("sha1", 1, 1, encoding::sha1),
    function("sha256", 1, 1, encoding::sha256),
    function("sha512", 1, 1, encoding::sha512),
    function("signum", 1, 1, numbers::signum),
    function("slice", 2, 3, lists::slice),
    function("sort", 1, 1, lists::sort),
    function("split", 2, 2, text::split),
    function("strlen", 1, 1, text::strlen),
    function("substr", 3, 3, text::substr),
    function("subtract", 2, 2, numbers::subtract),
    function("timeadd", 2, 2, time::timeadd),
    function("timestamp", 0, 0, time::timestamp),
    function("title", 1, 1, text::title),
    function("trim", 2, 2, text::trim),
    function("trimprefix", 2, 2, text::trimprefix),
    function("trimspace", 1, 1, text::trimspace),
    function("trimsuffix", 2, 2, text::trimsuffix),
    function("unixtimestampparse", 1, 1, time::unixtimestampparse),
    function("upper", 1, 1, text::upper),
    function("urlencode", 1, 1, encoding::urlencode),
    function("uuidv4", 0, 0, encoding::uuidv4),
    function("uuidv5", 2, 2, encoding::uuidv5),
    function("values", 1, 1, lists::values),
    function("zipmap", 2, 2, lists::zipmap),
];

/// Calls a function; None when there is none of that name.
pub fn call(world: &World<'_>, name: &str, args: &[Value]) -> Option<Answer> {
    let found = FUNCTIONS.iter().find(|function| function.name == name)?;
    if args.len() < found.least || args.len() > found.most {
        let expected = match (found.least, found.most) {
            (0, 0) => "no arguments".to_owned(),
            (1, 1) => "one argument".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, ANY) => format!("at least {least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        return Some(Err(format!("{name} takes {expected}, not {}", args.len())));
    }
    Some((found.run)(world, args).map_err(|error| format!("{name}: {error}")))
}

/// Says why a function of buildx is not here.
pub fn refused(name: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(known, _)| *known == name).map(|(_, way_out)| *way_out)
}

/// The names of all functions.
pub fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|function| function.name).chain(["try", "can", "convert"])
}
