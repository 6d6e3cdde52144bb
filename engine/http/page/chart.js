// Charts on a canvas by uPlot, with what it does not have: colours of the page's theme, keys, and a reading in words.

import { make, tell } from "./dom.js";

const { uPlot } = globalThis;
const FONT = "12px system-ui, sans-serif";
const COLOURS = ["ink", "soft", "line", "card", "bar", "bar-strong", "fine", "shade", "out"];

/** The page's colours, as they are now: {ink, soft, …}. */
function theme() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(COLOURS.map((name) => [name.replace(/-(.)/, (_, letter) => letter.toUpperCase()), style.getPropertyValue(`--${name}`).trim()]));
}

const charts = new Set();
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
  matchMedia(query).addEventListener("change", () => charts.forEach((chart) => chart.redraw()));
}

export class Chart {
  #host;
  #out;
  #design;
  #place = make("div", { class: "plot" });
  #empty = make("p", { class: "empty" });
  #plot = null;
  #data = null;
  #chosen = null; // The x that is read.
  #hint = "";

  /**
   * A chart in `host`. `design` makes uPlot's options of a theme: {scales, series, axes, …}; `read(index)` says in words
   * what stands there. The words go to `out`, which screen readers follow.
   */
  constructor(host, out, design, read) {
    this.#host = host;
    this.#out = out;
    this.#hint = out.textContent;
    this.#design = design;
    this.read = read;
    host.append(this.#place, this.#empty);
    host.addEventListener("keydown", (event) => this.#key(event));
    host.addEventListener("blur", () => this.#choose(null));
    new ResizeObserver(() => this.#fit()).observe(host);
    charts.add(this);
  }

  /** Show columns (x first, then one a series), and say what the chart is about. Without any x it says `empty`. */
  show(data, label, empty = "No games yet") {
    this.#host.setAttribute("aria-label", label);
    this.#data = data[0].length ? data : null;
    this.#place.hidden = this.#data === null;
    tell(this.#empty, this.#data ? "" : empty);
    if (this.#data === null) return;
    if (this.#plot === null) this.redraw();
    else this.#plot.setData(this.#data);
    if (this.#chosen !== null) this.#point(this.#data[0].indexOf(this.#chosen));
  }

  /** Draw anew: the theme or the design has changed. */
  redraw() {
    this.#plot?.destroy();
    this.#plot = null;
    if (this.#data === null || this.#place.clientWidth === 0) return;
    const colours = theme();
    const design = this.#design(colours);
    const options = {
      width: this.#place.clientWidth, height: this.#place.clientHeight,
      legend: { show: false }, padding: [8, 20, 0, 0], ...design,
      axes: design.axes.map((axis, at) => ({
        size: at ? 50 : 30,
        stroke: colours.soft, font: FONT, grid: { stroke: colours.line, width: 1 }, ticks: { stroke: colours.line, width: 1, size: 4 }, ...axis,
      })),
      cursor: { y: false, drag: { x: false, y: false, setScale: false }, points: { size: 7, fill: colours.ink }, ...design.cursor },
      hooks: { ...design.hooks, setCursor: [(plot) => this.#read(plot.cursor.idx)] },
    };
    this.#plot = new uPlot(options, this.#data, this.#place);
  }

  #fit() {
    const [width, height] = [this.#place.clientWidth, this.#place.clientHeight];
    if (this.#plot === null) this.redraw();
    else if (width > 0 && (width !== this.#plot.width || height !== this.#plot.height)) this.#plot.setSize({ width, height });
  }

  #key(event) {
    if (this.#data === null || this.#plot === null) return;
    const xs = this.#data[0];
    const last = xs.length - 1;
    const at = this.#chosen === null ? null : xs.indexOf(this.#chosen);
    const page = Math.max(1, Math.round(xs.length / 10));
    const next = {
      ArrowLeft: (at ?? last + 1) - 1, ArrowRight: (at ?? last - 1) + 1, Home: 0, End: last,
      PageUp: (at ?? last) - page, PageDown: (at ?? last) + page, Escape: null,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.#choose(next === null ? null : Math.max(0, Math.min(last, next)));
  }

  #choose(index) {
    this.#chosen = index === null ? null : this.#data[0][index];
    this.#point(index ?? -1);
  }

  #point(index) {
    if (this.#plot === null) return;
    const left = index < 0 ? -10 : this.#plot.valToPos(this.#data[0][index], "x");
    this.#plot.setCursor({ left, top: index < 0 ? -10 : 1 });
  }

  #read(index) {
    tell(this.#out, index === null || index === undefined || !this.#data?.[0].length ? this.#hint : this.read(index));
  }
}

/** Bars of shares with what the odds say of each behind them: columns x, share, low, high. */
export function bars(colours, { expected, xAxis, max }) {
  const isOut = (plot, at) => {
    const [, share, low, high] = plot.data;
    return share[at] < low[at] || share[at] > high[at];
  };
  const fill = (plot) => plot.data[1].map((_, at) => (isOut(plot, at) ? colours.out : colours.bar));
  return {
    scales: { x: { time: false, range: halfWider }, y: { range: (plot, low, high) => [0, max ?? Math.max(high, expected() * 1.5) * 1.06] } },
    series: [{}, {
      paths: uPlot.paths.bars({ size: [0.82, 48], disp: { fill: { unit: 3, values: fill }, stroke: { unit: 3, values: fill } } }),
      points: { show: false }, fill: colours.bar, width: 0,
    }, hidden, hidden],
    axes: [xAxis, { size: 44, values: (_, splits) => splits.map((share) => (share === null ? "" : `${+(share * 100).toFixed(2)}`)) }],
    hooks: { drawAxes: [(plot) => drawBands(plot, colours)], draw: [(plot) => drawLevel(plot, expected(), colours.ink)] },
  };
}

const hidden = { show: false };

/** Half a bar more on either side. */
function halfWider(plot, low, high) {
  const count = plot.data[0].length;
  const step = count > 1 ? Math.min(...plot.data[0].slice(1).map((x, at) => x - plot.data[0][at])) : 1;
  return [low - step / 2, high + step / 2];
}

function drawBands(plot, colours) {
  const [xs, , lows, highs] = plot.data;
  const { ctx } = plot;
  const step = xs.length > 1 ? Math.min(...xs.slice(1).map((x, at) => x - xs[at])) : 1;
  ctx.save();
  ctx.fillStyle = colours.shade;
  xs.forEach((x, at) => {
    if (highs[at] === null) return;
    const [left, right] = [plot.valToPos(x - step / 2, "x", true), plot.valToPos(x + step / 2, "x", true)];
    const [top, bottom] = [plot.valToPos(highs[at], "y", true), plot.valToPos(lows[at], "y", true)];
    ctx.fillRect(left, Math.max(top, plot.bbox.top), right - left, bottom - Math.max(top, plot.bbox.top));
  });
  ctx.restore();
}

/** A dashed line across, at what is expected. */
export function drawLevel(plot, level, colour) {
  const { ctx, bbox } = plot;
  const y = Math.round(plot.valToPos(level, "y", true));
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = Math.max(1, Math.round(devicePixelRatio));
  ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

/** The share of games that reach a crash point, on log scales: columns point, share, odds, low, high. */
export function survival(colours, { floor }) {
  return {
    scales: { x: { time: false, distr: 3 }, y: { distr: 3, range: () => [floor(), 1] } },
    series: [{},
      { stroke: colours.barStrong, width: 2.5, points: { show: false } },
      { stroke: colours.ink, width: 1, dash: [5, 4], points: { show: false } },
      { stroke: "transparent", points: { show: false } },
      { stroke: "transparent", points: { show: false } }],
    bands: [{ series: [4, 3], fill: colours.shade }],
    axes: [
      { values: (_, splits) => splits.map((point) => (point === null ? "" : `${point}×`)) },
      { size: 56, values: (_, splits) => splits.map((share) => (share === null ? "" : `${+(share * 100).toPrecision(2)} %`)) },
    ],
  };
}

/** Crash points on a log scale: columns games ago, points below, points that match. */
export function points(colours, { level }) {
  const dots = (colour, size) => ({
    stroke: colour, paths: () => null, points: { show: true, size, width: 0, fill: colour, stroke: colour },
  });
  return {
    scales: { x: { time: false, range: (plot, low, high) => [low - 3, high + 3] }, y: { distr: 3, range: (plot, low, high) => [0.9, Math.max(100, high * 1.3)] } },
    series: [{}, dots(colours.soft, 3.5), dots(colours.barStrong, 6)],
    axes: [
      { values: (_, splits) => splits.map((ago) => (ago === 0 ? "now" : `${ago}`)) },
      { size: 56, values: (_, splits) => splits.map((point) => (point === null || point < 1 ? "" : `${point}×`)) },
    ],
    hooks: { draw: [(plot) => drawLevel(plot, level(), colours.ink)] },
  };
}

/** How many runs have which length: columns length, runs, expected. */
export function lengths(colours) {
  return {
    scales: { x: { time: false, range: halfWider }, y: { range: (plot, low, high) => [0, Math.max(1, high) * 1.1] } },
    series: [{},
      { paths: uPlot.paths.bars({ size: [0.82, 48] }), fill: colours.bar, points: { show: false } },
      { stroke: colours.ink, width: 1, dash: [5, 4], points: { show: true, size: 5, fill: colours.card, stroke: colours.ink } }],
    axes: [{}, { size: 44 }],
  };
}
