// A bar chart of intervals as SVG. Attributes and text nodes only, so it needs no inline style.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 200;
const LEFT = 40;
const RIGHT = 6;
const TOP = 14;
const BOTTOM = 24;
const LABEL_PX = 64;
const HOUR_MS = 3_600_000;

export class IntervalChart {
  #host;
  #onChoice;
  #items = [];
  #bars = [];
  #expected = 0;
  #stepMs = 600_000;
  #hours = 24;
  #chosen = -1;

  /** `onChoice` hears which interval is pointed at, or null. */
  constructor(host, onChoice) {
    this.#host = host;
    this.#onChoice = onChoice;
    new ResizeObserver(() => this.#draw()).observe(host);
    host.addEventListener("pointermove", (event) => this.#chooseAt(event.clientX));
    host.addEventListener("pointerdown", (event) => this.#chooseAt(event.clientX));
    host.addEventListener("pointerleave", () => this.#choose(-1));
    host.addEventListener("blur", () => this.#choose(-1));
    host.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show intervals, oldest first, and what the odds say, in percent. */
  show({ items, minutes, hours, expected }) {
    const chosen = this.#items[this.#chosen]?.interval_start;
    this.#items = items;
    this.#stepMs = minutes * 60_000;
    this.#hours = hours;
    this.#expected = expected;
    this.#chosen = items.findIndex((item) => item.interval_start === chosen);
    this.#draw();
  }

  #draw() {
    const width = Math.max(240, this.#host.clientWidth);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
    const items = this.#items;
    this.#bars = [];
    if (items.length === 0) {
      svg.append(label(width / 2, HEIGHT / 2, "No games in this time", "empty", "middle"));
    } else {
      const max = niceMax(Math.max(this.#expected, ...items.map((item) => item.percentage)));
      const x = this.#scale(width);
      const y = (percentage) => HEIGHT - BOTTOM - (percentage / max) * (HEIGHT - TOP - BOTTOM);
      this.#drawAxes(svg, width, x, y, max);
      for (const [index, item] of items.entries()) {
        const from = x(Date.parse(item.interval_start));
        const wide = x(Date.parse(item.interval_start) + this.#stepMs) - from;
        const gap = wide > 4 ? 1 : 0.4;
        const top = Math.min(y(item.percentage), HEIGHT - BOTTOM - 1);
        const bar = shape("rect", {
          x: from + gap / 2,
          y: top,
          width: Math.max(0.8, wide - gap),
          height: HEIGHT - BOTTOM - top,
          rx: Math.min(2, wide / 4),
          class: index === this.#chosen ? "bar chosen" : "bar",
        });
        svg.append(bar);
        this.#bars.push(bar);
      }
      svg.append(line(LEFT, y(this.#expected), width - RIGHT, y(this.#expected), "odds-line"));
    }
    this.#host.replaceChildren(svg);
  }

  #drawAxes(svg, width, x, y, max) {
    for (const share of [0, max / 2, max]) {
      svg.append(line(LEFT, y(share), width - RIGHT, y(share), "axis"));
      svg.append(label(LEFT - 6, y(share) + 4, trim(share), "", "end"));
    }
    const [begin, end] = this.#times();
    const fits = Math.max(1, Math.floor((width - LEFT - RIGHT) / LABEL_PX));
    const stepHours = [1, 2, 3, 4, 6, 8, 12, 24].find((hours) => (end - begin) / HOUR_MS / hours <= fits) ?? 24;
    let before = "";
    for (const item of this.#items) {
      // The first interval of an hour, for grids and zones where none begins with it.
      const hour = item.interval_start.slice(0, 13);
      const isFirst = hour !== before && Number(item.interval_start.slice(14, 16)) * 60_000 < this.#stepMs;
      before = hour;
      const at = x(Date.parse(item.interval_start));
      if (!isFirst || Number(hour.slice(11)) % stepHours || at > width - LABEL_PX / 2) continue;
      const text = stepHours === 24 ? item.interval_start.slice(5, 10) : item.interval_start.slice(11, 16);
      svg.append(line(at, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 4, "axis"));
      svg.append(label(at, HEIGHT - 6, text, "", "middle"));
    }
  }

  #times() {
    const end = Date.parse(this.#items.at(-1).interval_start) + this.#stepMs;
    return [Math.min(Date.parse(this.#items[0].interval_start), end - this.#hours * HOUR_MS), end];
  }

  #scale(width) {
    const [begin, end] = this.#times();
    return (time) => LEFT + ((time - begin) / (end - begin)) * (width - LEFT - RIGHT);
  }

  #chooseAt(clientX) {
    if (this.#items.length === 0) return;
    const box = this.#host.getBoundingClientRect();
    const [begin, end] = this.#times();
    const time = begin + ((clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * (end - begin);
    this.#choose(this.#items.findIndex((item) => {
      const start = Date.parse(item.interval_start);
      return start <= time && time < start + this.#stepMs;
    }));
  }

  #key(event) {
    const last = this.#items.length - 1;
    const now = this.#chosen < 0 ? last + 1 : this.#chosen;
    const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last, Escape: -1 }[event.key];
    if (next === undefined || last < 0) return;
    event.preventDefault();
    this.#choose(event.key === "Escape" ? -1 : Math.max(0, Math.min(last, next)));
  }

  #choose(index) {
    if (index === this.#chosen) return;
    this.#bars[this.#chosen]?.setAttribute("class", "bar");
    this.#bars[index]?.setAttribute("class", "bar chosen");
    this.#chosen = index;
    this.#onChoice(this.#items[index] ?? null);
  }
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, typeof value === "number" ? trim(value) : value);
  }
  return element;
}

function line(x1, y1, x2, y2, name) {
  return shape("line", { x1, y1, x2, y2, class: name });
}

function label(x, y, text, name, anchor) {
  const element = shape("text", { x, y, class: name, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

function niceMax(percentage) {
  return [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 40, 50, 60, 80, 100].find((max) => percentage <= max) ?? 100;
}

function trim(value) {
  return String(Math.round(value * 100) / 100);
}
