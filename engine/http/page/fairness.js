// Provable fairness: the crash point that follows from a game's hash, and the links of the chain of hashes. Pure.
//
// SHA-256 is written out here because browsers have theirs (WebCrypto) on https and localhost alone, and this page is
// also read over plain http. The formulas are those of the engine, and are tested against the same vectors.

import { DEFAULT_RULE, instantCrashEvery } from "./odds.js";

export const HASH = /^[0-9a-f]{64}$/;

const BLOCK = 64;
const K = primes(64, (prime) => Math.cbrt(prime));
const START = primes(8, (prime) => Math.sqrt(prime));
const words = new Int32Array(64);

/** The first 32 bits of the fractions of the roots of the first primes: the constants of SHA-256. */
function primes(howMany, root) {
  const found = [];
  for (let n = 2; found.length < howMany; n += 1) {
    if (!found.some(([prime]) => n % prime === 0)) found.push([n, ((root(n) % 1) * 2 ** 32) | 0]);
  }
  return Int32Array.from(found, ([, word]) => word);
}

/** SHA-256 of bytes. */
export function sha256(bytes) {
  const state = Int32Array.from(START);
  const padded = new Uint8Array(Math.ceil((bytes.length + 9) / BLOCK) * BLOCK);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, bytes.length * 8);
  for (let at = 0; at < padded.length; at += BLOCK) compress(state, view, at);
  const digest = new Uint8Array(32);
  const out = new DataView(digest.buffer);
  state.forEach((word, index) => out.setInt32(4 * index, word));
  return digest;
}

function compress(state, view, at) {
  for (let i = 0; i < 16; i += 1) words[i] = view.getInt32(at + 4 * i);
  for (let i = 16; i < 64; i += 1) {
    const [early, late] = [words[i - 15], words[i - 2]];
    const s0 = turned(early, 7) ^ turned(early, 18) ^ (early >>> 3);
    const s1 = turned(late, 17) ^ turned(late, 19) ^ (late >>> 10);
    words[i] = words[i - 16] + s0 + words[i - 7] + s1;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i += 1) {
    const one = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + words[i]) | 0;
    const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, index) => { state[index] += word; });
}

function turned(word, by) {
  return (word >>> by) | (word << (32 - by));
}

/** HMAC-SHA256 (RFC 2104). */
export function hmac(key, message) {
  const block = new Uint8Array(BLOCK);
  block.set(key.length > BLOCK ? sha256(key) : key);
  const inner = joined(block.map((byte) => byte ^ 0x36), message);
  return sha256(joined(block.map((byte) => byte ^ 0x5c), sha256(inner)));
}

function joined(one, other) {
  const both = new Uint8Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}

const ascii = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
const bytesOf = (digits) => Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
const hexOf = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * The crash point that follows from a hash (64 hex digits) by a rule {salt (ASCII text), variant, house_edge_percent}; null
 * when none does. docs/rules.md of the project lists the formulas with their sources. r is the first 52 bits of an HMAC.
 */
export function crashPoint(digits, rule = DEFAULT_RULE) {
  const { salt, variant, house_edge_percent: edge } = rule;
  if (variant === "exact" || variant === "nine_digits") {
    let x = first52(hmac(ascii(salt), bytesOf(digits))) / 2 ** 52;
    if (variant === "nine_digits") x = Number(x.toPrecision(9));
    return x === 1 ? null : Math.max(1, Math.floor((100 - edge) / (1 - x)) / 100);
  }
  const mac = hmac(ascii(digits), ascii(salt));
  if (variant === "stake") {
    const point = (2 ** 32 / (new DataView(mac.buffer).getUint32(0) + 1)) * (1 - edge / 100);
    return Math.max(1, Math.floor(point * 100) / 100);
  }
  const every = instantCrashEvery(rule);
  if (every !== null && mac.reduce((rest, byte) => (rest * 256 + byte) % every, 0) === 0) return 1;
  const r = first52(mac);
  return Math.floor((100 * 2 ** 52 - r) / (2 ** 52 - r)) / 100;
}

const first52 = (mac) => parseInt(hexOf(mac).slice(0, 13), 16);

/** The hash of the game before: SHA-256 of the 64 characters, not of the 32 bytes. */
export function previousHash(digits) {
  return hexOf(sha256(ascii(digits)));
}
