// How numbers and times are written. Times are epoch milliseconds, shown on the wall clock of the zone that is chosen.

const count_ = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const share_ = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const chance_ = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const point_ = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const short_ = new Intl.NumberFormat("en", { maximumFractionDigits: 15 });
const rate_ = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

export const count = (value) => count_.format(value);
/** A share from 0 to 1, as percent without the sign. */
export const percent = (share) => share_.format(share * 100);
/** A chance from 0 to 1, as percent with three digits that count. */
export const chance = (share) => `${chance_.format(share * 100)} %`;
export const point = (value) => `${point_.format(value)}×`;
/** An expected count: whole, unless so small that tenths tell. */
export const expected = (value) => (value < 10 ? rate_.format(value) : count_.format(value));
export const rate = (value) => rate_.format(value);

const KINDS = { min: (value) => `≥ ${value}×`, max: (value) => `≤ ${value}×`, floor: (value) => `${value}.xx×` };

/** A predicate in words: `≥ 2×`, `≤ 1.01×`, `7.xx×`. */
export const predicate = ({ kind, value }) => KINDS[kind](short_.format(value));
export const threshold = (value) => `${short_.format(value)}×`;

let zone = "UTC";
let wall = wallOf(zone);

function wallOf(name) {
  return new Intl.DateTimeFormat("sv-SE", {
    timeZone: name, year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
}

/** Show times in this zone from now on; whether the browser knows it. */
export function setZone(name) {
  try {
    wall = wallOf(name);
  } catch {
    return false;
  }
  zone = name;
  return true;
}

export const zoneName = () => zone;
const whole = (ms) => wall.format(ms); // 2026-01-15 12:34:56
export const day = (ms) => whole(ms).slice(0, 10);
export const clock = (ms) => whole(ms).slice(11);
export const minute = (ms) => whole(ms).slice(11, 16);

/** The time of day, with the date unless that is the day of `todayMs`. */
export function moment(ms, todayMs, write = clock) {
  return day(ms) === day(todayMs) ? write(ms) : `${day(ms)} ${write(ms)}`;
}

/** A duration: `12 s`, `5 min`, `3 h`, `316 days`. */
export function duration(seconds) {
  if (seconds < 10 && seconds % 1 !== 0) return `${rate_.format(seconds)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6_000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${count_.format(Math.round(seconds / 86_400))} days`;
}

export const games = (number) => `${count_.format(number)} ${number === 1 ? "game" : "games"}`;
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
