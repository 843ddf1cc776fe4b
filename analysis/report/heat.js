// Colours of matplotlib's "cividis", which colour-blind readers can order, from low to high.
const HEAT = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const CELL = { width: 84, height: 44, left: 62, top: 10, bottom: 46 };

function heatColor(share) {
  const place = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1), at = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[at].map((low, channel) => Math.round(low + (place - at) * (HEAT[at + 1][channel] - low)));
}

/** Heat maps of accuracy over agg_layer and temperature, one for each method, kept and other setting. */
function heatMaps(rows) {
  const groups = new Map();
  for (const row of rows) {
    if (row.control || row.figures.agg_layer == null) continue;
    groups.set(row.map, [...(groups.get(row.map) || []), row]);
  }
  const several = (name) => new Set(rows.map((row) => row.figures[name]).filter((value) => value != null)).size > 1;
  const shown = [...groups].filter(([, same]) => same.length > 1);
  if (!several("agg_layer") || !several("temperature") || !shown.length) return [];
  const values = shown.flatMap(([, same]) => same.map((row) => row.figures.accuracy));
  const range = [Math.min(...values), Math.max(...values)];
  return [...shown.map(([name, same]) => heatMap(name, same, range)), colorBar(range)];
}

function heatMap(name, rows, range) {
  const up = (a, b) => a - b;
  const layers = [...new Set(rows.map((row) => row.figures.agg_layer))].sort(up);
  const temperatures = [...new Set(rows.map((row) => row.figures.temperature ?? null))].sort(up);
  const width = CELL.left + CELL.width * temperatures.length + 8;
  const height = CELL.top + CELL.height * layers.length + CELL.bottom;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "heat", width, role: "img",
    "aria-label": `${name}: accuracy over agg_layer and temperature` });
  const best = Math.max(...rows.map((row) => row.figures.accuracy));
  for (const row of rows) {
    const x = CELL.left + CELL.width * temperatures.indexOf(row.figures.temperature ?? null);
    const y = CELL.top + CELL.height * layers.indexOf(row.figures.agg_layer);
    drawing.append(heatCell(row, x, y, range, row.figures.accuracy === best));
  }
  const middle = CELL.left + (CELL.width * temperatures.length) / 2, bottom = height - CELL.bottom;
  const side = CELL.top + (CELL.height * layers.length) / 2;
  drawing.append(
    ...layers.map((layer, at) => svg("text", { x: CELL.left - 8, y: CELL.top + CELL.height * (at + 0.5) + 4,
      "text-anchor": "end" }, String(layer))),
    ...temperatures.map((value, at) => svg("text", { x: CELL.left + CELL.width * (at + 0.5), y: bottom + 18,
      "text-anchor": "middle" }, value === null ? "none" : String(value))),
    svg("text", { class: "axis", x: middle, y: height - 6, "text-anchor": "middle" }, "temperature"),
    svg("text", { class: "axis", "text-anchor": "middle", transform: `translate(14 ${side}) rotate(-90)` },
      "agg_layer"));
  const title = el("h4", {}, name);
  return el("figure", { class: "chart" }, el("div", { class: "head" }, title,
    svgButton(`${name} heat map`, () => standalone(drawing))), drawing);
}

function heatCell(row, x, y, range, isBest) {
  const share = range[1] > range[0] ? (row.figures.accuracy - range[0]) / (range[1] - range[0]) : 0.5;
  const color = heatColor(share), ink = share > 0.55 ? "dark" : "light";
  const { accuracy, ci_low, ci_high } = row.figures;
  const whole = (value) => (100 * value).toFixed(0);
  const middle = x + CELL.width / 2;
  return svg("g", {},
    svg("title", {}, `${row.label}: ${interval(row.figures)}`),
    svg("rect", { x: x + 1, y: y + 1, width: CELL.width - 2, height: CELL.height - 2,
      fill: `rgb(${color.join(" ")})` }),
    isBest ? svg("rect", { x: x + 3, y: y + 3, width: CELL.width - 6, height: CELL.height - 6,
      class: `best-cell ${ink}` }) : null,
    svg("text", { x: middle, y: y + 20, "text-anchor": "middle", class: `figure ${ink}` }, percent(accuracy)),
    svg("text", { x: middle, y: y + 35, "text-anchor": "middle", class: `figure small ${ink}` },
      `${whole(ci_low)} to ${whole(ci_high)}`));
}

function colorBar(range) {
  const width = 260, steps = 52;
  const drawing = svg("svg", { viewBox: `0 0 ${width} 34`, width, class: "bar", role: "img",
    "aria-label": `Colours from ${percent(range[0])} to ${percent(range[1])}` });
  for (let at = 0; at < steps; at++) {
    drawing.append(svg("rect", { x: (at * width) / steps, y: 0, width: width / steps + 0.5, height: 12,
      fill: `rgb(${heatColor(at / (steps - 1)).join(" ")})` }));
  }
  drawing.append(svg("text", { x: 0, y: 28 }, percent(range[0])),
    svg("text", { x: width, y: 28, "text-anchor": "end" }, percent(range[1])));
  return el("figure", { class: "chart key" }, drawing, el("figcaption", {},
    "Accuracy, with its 95% interval below. The best cell of each map has a frame; it was chosen on these questions."));
}
