// SVG paths by plotly's names of markers. analysis/style.py says which method has which marker.
const MARKERS = {
  circle: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
  square: "M-3.6-3.6h7.2v7.2h-7.2Z",
  "triangle-up": "M0-4.6L4.4 3.4H-4.4Z",
  "triangle-down": "M0 4.6L4.4-3.4H-4.4Z",
  "triangle-right": "M4.6 0L-3.4 4.4V-4.4Z",
  "triangle-left": "M-4.6 0L3.4 4.4V-4.4Z",
  diamond: "M0-5L4.4 0L0 5L-4.4 0Z",
  "diamond-tall": "M0-5.6L3.2 0L0 5.6L-3.2 0Z",
  cross: "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z",
  x: "M-4.2-2.2L-2.2-4.2L0-2L2.2-4.2L4.2-2.2L2 0L4.2 2.2L2.2 4.2L0 2L-2.2 4.2L-4.2 2.2L-2 0Z",
  star: "M0-5.2L1.3-1.7L5-1.6L2 .7L3.1 4.3L0 2.1L-3.1 4.3L-2 .7L-5-1.6L-1.3-1.7Z",
  pentagon: "M0-4.6L4.4-1.4L2.7 3.7H-2.7L-4.4-1.4Z",
  hexagon: "M0-4.6L4-2.3V2.3L0 4.6L-4 2.3V-2.3Z",
  octagon: "M-1.8-4.3H1.8L4.3-1.8V1.8L1.8 4.3H-1.8L-4.3 1.8V-1.8Z",
};
const DASHES = ["", "6 3", "2 3", "8 3 2 3"], DASH_NAMES = ["solid", "dashed", "dotted", "dash-dotted"];

/** About `count` round values between two numbers. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const values = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) values.push(value);
  return values;
}

/** A chart: axes, series of points with intervals, and horizontal rules.
 *
 * draw(spec) takes
 *   points            [{x, y, low, high, left, right, row, lines, hollow, text}]: low and high bound y, left and
 *                     right bound x, lines is the text of the tip, and text stands beside the mark where there is room
 *   front             [[x, y]] corners of a line of steps behind the points
 *   rules             horizontal lines [{y, low, high, text, dash}]
 *   range             [lowest y, highest y]
 *   log, xTicks       whether the x axis is logarithmic, and its ticks
 *   xFormat, yFormat  from a value to its text
 *   xLabel            of the x axis
 *   join              whether a line joins the points of a series
 *   nudge             whether points of different series at one x are drawn side by side
 *   empty             the text to show without points
 */
class Chart {
  constructor(host, title, note, label) {
    this.svg = svg("svg", { tabindex: 0, role: "group", "aria-label": label });
    const head = el("div", { class: "head" }, el("h3", {}, title), svgButton(title, () => this.exported()));
    this.figure = el("figure", { class: "chart" }, head, this.svg, el("figcaption", {}, note));
    host.append(this.figure);
    this.at = -1;  // index of the picked point in this.marks, -1 for none
    this.svg.addEventListener("pointermove", (event) => this.pickNearest(event));
    this.svg.addEventListener("pointerdown", (event) => this.pickNearest(event));
    this.svg.addEventListener("pointerleave", () => this.pick(-1));
    this.svg.addEventListener("blur", () => this.pick(-1));
    this.svg.addEventListener("keydown", (event) => this.pickByKey(event));
  }

  draw(spec) {
    this.spec = spec;
    const width = Math.max(this.figure.clientWidth, 260);
    const height = Math.min(spec.tallest ?? 360, Math.max(260, 0.62 * width));
    const box = { left: 46, right: width - 12, top: 12, bottom: height - 44 };
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren();
    if (!spec.points.length) {
      this.svg.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, spec.empty));
      this.marks = [];
      return;
    }
    const xs = spec.points.flatMap((point) => [point.x, point.left ?? point.x, point.right ?? point.x]);
    const scale = spec.log ? Math.log2 : (value) => value;
    let [from, to] = [scale(Math.min(...xs)), scale(Math.max(...xs))];
    const margin = (to - from) * 0.07 || 0.5;
    [from, to] = [from - margin, to + margin];
    this.x = (value) => box.left + ((scale(value) - from) / (to - from)) * (box.right - box.left);
    this.y = (value) =>
      box.bottom - ((value - spec.range[0]) / (spec.range[1] - spec.range[0])) * (box.bottom - box.top);
    this.axes(box, spec.xTicks || ticks(from, to, Math.max(3, Math.round(width / 110))), width, height);
    this.taken = [];
    this.rules(box);
    this.front();
    this.series(box);
    this.labels(box);
    this.ring = svg("path", { class: "picked", d: "M-8 0a8 8 0 1 0 16 0a8 8 0 1 0-16 0Z", visibility: "hidden" });
    this.svg.append(this.ring);
  }

  axes(box, xTicks, width, height) {
    const { spec } = this;
    for (const value of ticks(spec.range[0], spec.range[1], 6)) {
      const y = this.y(value);
      this.svg.append(
        svg("line", { class: "gridline", x1: box.left, x2: box.right, y1: y, y2: y }),
        svg("text", { x: box.left - 6, y: y + 4, "text-anchor": "end" }, spec.yFormat(value)),
      );
    }
    let lastEnd = -Infinity;
    for (const value of xTicks) {
      const text = spec.xFormat(value), x = this.x(value), half = 3.6 * text.length;
      if (x < box.left - 1 || x > box.right + 1 || x - half < lastEnd) continue;
      lastEnd = x + half + 4;
      this.svg.append(
        svg("line", { class: "gridline", x1: x, x2: x, y1: box.bottom, y2: box.bottom + 5 }),
        svg("text", { x, y: box.bottom + 19, "text-anchor": "middle" }, text),
      );
    }
    this.svg.append(
      svg("line", { class: "gridline", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      svg("text", { class: "axis", x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" },
        spec.xLabel),
    );
  }

  rules(box) {
    const rules = [...(this.spec.rules || [])].sort((a, b) => b.y - a.y);
    let below = -Infinity;
    for (const rule of rules) {
      const y = this.y(rule.y), text = Math.max(y - 4, below + 13);
      below = text;
      if (rule.low !== undefined) {
        const top = this.y(rule.high);
        const size = { width: box.right - box.left, height: this.y(rule.low) - top };
        this.svg.append(svg("rect", { class: "band", x: box.left, y: top, ...size }));
      }
      this.svg.append(
        svg("line", { class: "rule", x1: box.left, x2: box.right, y1: y, y2: y, "stroke-dasharray": rule.dash }),
        svg("text", { x: box.right, y: text, "text-anchor": "end" }, rule.text),
      );
      this.taken.push([box.right - 6.2 * rule.text.length, text - 11, box.right, text + 3]);
    }
  }

  front() {
    const { front } = this.spec;
    if (!front || front.length < 2) return;
    const steps = front.map(([x, y], at) => (at ? `H${this.x(x)}V${this.y(y)}` : `M${this.x(x)} ${this.y(y)}`));
    this.svg.append(svg("path", { class: "front", d: steps.join("") }));
  }

  series(box) {
    const groups = new Map();
    for (const point of this.spec.points) {
      if (!groups.has(point.row.line)) groups.set(point.row.line, []);
      groups.get(point.row.line).push(point);
    }
    const places = new Set(this.spec.points.map((point) => point.x)).size;
    const room = (0.7 * (box.right - box.left)) / places / groups.size;
    const nudge = this.spec.nudge ? Math.min(places > 1 ? 6 : 48, room) : 0;
    this.marks = [];
    [...groups.values()].forEach((points, index) => {
      const shift = nudge * (index - (groups.size - 1) / 2);
      points.sort((a, b) => a.x - b.x);
      const marks = points.map((point) => ({ point, x: this.x(point.x) + shift, y: this.y(point.y) }));
      const group = svg("g", { class: points[0].row.color });
      if (this.spec.join && marks.length > 1) {
        const d = marks.map(({ x, y }, at) => `${at ? "L" : "M"}${x} ${y}`).join("");
        const dash = DASHES[points[0].row.dash % DASHES.length];
        group.append(svg("path", { class: "through", d, "stroke-dasharray": dash }));
      }
      for (const { point, x, y } of marks) {
        let d = point.low === undefined ? "" : `M${x} ${this.y(point.low)}V${this.y(point.high)}`;
        if (point.left !== undefined) d += `M${this.x(point.left)} ${y}H${this.x(point.right)}`;
        group.append(svg("path", { class: "interval", d }));
        const kind = point.hollow ? "mark hollow" : "mark";
        group.append(svg("path", { class: kind, d: MARKERS[point.row.marker], transform: `translate(${x} ${y})` }));
      }
      this.svg.append(group);
      this.marks.push(...marks);
    });
    this.marks.sort((a, b) => a.x - b.x || a.y - b.y);
  }

  /** Writes the texts of the points beside their marks, except where they would cover something. */
  labels(box) {
    for (const { x, y } of this.marks) this.taken.push([x - 5, y - 5, x + 5, y + 5]);
    for (const { point, x, y } of this.marks) {
      if (!point.text) continue;
      const width = 6.4 * point.text.length;
      const sides = [[x + 7, y - 5], [x - 7 - width, y - 5], [x + 7, y + 14], [x - 7 - width, y + 14]];
      const free = sides.find(([left, base]) => left > box.left && left + width < box.right && base < box.bottom - 2
        && base > box.top && !this.taken.some(([x0, y0, x1, y1]) =>
          left < x1 && left + width > x0 && base - 10 < y1 && base + 2 > y0));
      if (!free) continue;
      this.taken.push([free[0], free[1] - 10, free[0] + width, free[1] + 2]);
      this.svg.append(svg("text", { class: `label ${point.row.color}`, x: free[0], y: free[1] }, point.text));
    }
  }

  /** The drawing with a legend below, for a file of its own. */
  exported() {
    const copy = standalone(this.svg), [, , width, height] = copy.getAttribute("viewBox").split(" ").map(Number);
    const lines = new Map(this.spec.points.map((point) => [point.row.line, point.row]));
    const longest = Math.max(...[...lines.keys()].map((line) => line.length), 1);
    const across = Math.max(1, Math.floor(width / (40 + 6.6 * longest)));
    const total = height + 20 * Math.ceil(lines.size / across) + 8;
    const text = getComputedStyle(document.body).color;
    [...lines.values()].forEach((row, at) => {
      const x = 12 + ((at % across) * (width - 12)) / across, y = height + 12 + 20 * Math.floor(at / across);
      const source = this.svg.querySelector(`g.${row.color} .mark`), color = source && getComputedStyle(source).stroke;
      copy.append(
        svg("path", { d: `M${x} ${y}h22`, stroke: color, "stroke-width": 1.8,
          "stroke-dasharray": DASHES[row.dash % DASHES.length] }),
        svg("path", { d: MARKERS[row.marker], fill: color, transform: `translate(${x + 11} ${y})` }),
        svg("text", { x: x + 28, y: y + 4, "font-size": 12, fill: text }, row.line));
    });
    copy.setAttribute("viewBox", `0 0 ${width} ${total}`);
    for (const each of [copy, copy.firstChild]) each.setAttribute("height", total);
    return copy;
  }

  pickNearest(event) {
    const area = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - area.left, event.clientY - area.top];
    let best = -1, least = 26;
    this.marks.forEach((mark, at) => {
      const distance = Math.hypot(mark.x - x, mark.y - y);
      if (distance < least) [best, least] = [at, distance];
    });
    this.pick(best);
  }

  pickByKey(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.pick(-1);
    if (!step || !this.marks.length) return;
    event.preventDefault();
    this.pick((this.at + step + this.marks.length + (this.at < 0 && step < 0 ? 1 : 0)) % this.marks.length);
  }

  pick(at) {
    this.at = at;
    if (!this.ring) return;
    this.ring.setAttribute("visibility", at < 0 ? "hidden" : "visible");
    if (at < 0) return hideTip();
    const { x, y, point } = this.marks[at];
    this.ring.setAttribute("transform", `translate(${x} ${y})`);
    const area = this.svg.getBoundingClientRect();
    showTip(area.left + x, area.top + y, point.lines);
  }
}
