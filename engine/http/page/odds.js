// What the odds say: chances, expected counts and the bands in which 95 of 100 samples of independent rounds lie.
// Pure. A predicate is {kind: "min" | "max" | "floor", value}; n counts games; p is a chance from 0 to 1.

/** What lies outside a band on either side, at most. */
const TAIL = 0.025;
const LOG_2_PI = Math.log(2 * Math.PI);

/** The rule of a table that says nothing else: {salt, variant, house_edge_percent}, as the settings of `fairness` have it. */
export const DEFAULT_RULE = {
  salt: "0000000000000000000301e2801a9a9598bfb114e574a91a887f2132f33047e6", variant: "exact", house_edge_percent: 1,
};

/** Under `bustabit_v1` one game in so many ends at once; null for none. */
export function instantCrashEvery({ variant, house_edge_percent: edge }) {
  return variant === "bustabit_v1" && edge > 0 ? Math.floor(101 / edge) : null;
}

/** The chance of a crash point of at least `value`. */
export function reaching(value, rule = DEFAULT_RULE) {
  if (value <= 1) return 1;
  if (rule.variant !== "bustabit_v1") return (1 - rule.house_edge_percent / 100) / value;
  const every = instantCrashEvery(rule);
  return ((every === null ? 1 : 1 - 1 / every) * 99) / (100 * value - 1);
}

/** The chance that a game matches. */
export function chanceOf({ kind, value }, rule = DEFAULT_RULE) {
  if (kind === "min") return reaching(value, rule);
  return kind === "max" ? 1 - reaching(value + 0.01, rule) : reaching(value, rule) - reaching(value + 1, rule);
}

export function matches({ kind, value }, point) {
  if (kind === "min") return point >= value;
  return kind === "max" ? point <= value : Math.floor(point) === value;
}

const bands = new Map();
const BANDS_KEPT = 4_096;

/**
 * The counts of matches among n games that are no surprise: {low, high, outside}, both ends inclusive; `outside` is the
 * chance of any other count, 5 % at most.
 */
export function band(n, p) {
  const key = `${n} ${p}`;
  let found = bands.get(key);
  if (found === undefined) {
    if (bands.size >= BANDS_KEPT) bands.clear();
    bands.set(key, found = binomialBand(n, p));
  }
  return found;
}

function binomialBand(n, p) {
  if (n === 0 || p <= 0) return { low: 0, high: 0, outside: 0 };
  if (p >= 1) return { low: n, high: n, outside: 0 };
  const spread = 9 * Math.sqrt(n * p * (1 - p)) + 9; // Beyond it there is nothing that a double could add.
  const first = Math.max(0, Math.floor(n * p - spread));
  let mass = Math.exp(logChoose(n, first) + first * Math.log(p) + (n - first) * Math.log1p(-p));
  let below = 0;
  let low = -1;
  let lowMass = 0;
  for (let k = first; ; k += 1) {
    if (low < 0 && below + mass > TAIL) [low, lowMass] = [k, below];
    below += mass;
    if (below >= 1 - TAIL || k >= n) return { low, high: k, outside: Math.max(0, lowMass + 1 - below) };
    mass *= ((n - k) / (k + 1)) * (p / (1 - p));
  }
}

function logChoose(n, k) {
  return logFactorial(n) - logFactorial(k) - logFactorial(n - k);
}

/** ln n!, by its product where that is short and by Stirling's series where it is not. */
function logFactorial(n) {
  if (n < 20) {
    let product = 1;
    for (let factor = 2; factor <= n; factor += 1) product *= factor;
    return Math.log(product);
  }
  const x = n + 1;
  return (x - 0.5) * Math.log(x) - x + LOG_2_PI / 2 + 1 / (12 * x) - 1 / (360 * x ** 3) + 1 / (1260 * x ** 5);
}

/** How likely it is to wait for `games` games or more without a match. */
export function waiting(p, games) {
  return (1 - p) ** games;
}

/** How many games without a match the share `u` of all waits is shorter than. */
export function waitOf(p, u) {
  return p >= 1 ? 0 : Math.log1p(-u) / Math.log1p(-p);
}

/**
 * The longest wait among n games: the length that it stays below with probability `u`, by the limit law of the longest
 * run (P[longest < m] ≈ exp(−n p (1 − p)^m)).
 */
export function longestWait(n, p, u) {
  if (p >= 1) return 0;
  return Math.max(0, Math.log(-Math.log(u) / (n * p)) / Math.log1p(-p));
}
