const isOdd = require('is-odd');
const ms = require('ms');
console.log(process.arch, isOdd(41), ms('2 hours'));
