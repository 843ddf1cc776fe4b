const COSTS = {
  flops_ratio: { text: "FLOPs", label: "prefill FLOPs, % of the full model's (exact)", format: percent },
  prefill_ms: { text: "Time to first token", label: "time to first token, ms", format: milliseconds },
  total_ms: { text: "Whole answer", label: "time of the whole answer, ms", format: milliseconds },
  kv_bytes: { text: "KV cache", label: "KV cache after the prompt, MiB", format: mebibytes },
};

// The x axis of the charts by the setting that varies along it, and the text beside a point of the chart over cost.
const AXES = {
  kept: { title: "kept visual tokens", label: "kept visual tokens", log: true, labels: "kept visual tokens",
    text: (row) => String(row.kept) },
  agg_layer: { title: "agg_layer", label: "agg_layer (the decoder layer before which tokens are reduced)", log: false,
    labels: "L and the agg_layer", text: (row) => (row.x == null ? "" : `L${row.x}`) },
  temperature: { title: "temperature", label: "temperature of the cross-attention", log: true,
    labels: "T and the temperature", text: (row) => (row.x == null ? "" : `T ${row.x}`) },
};

function milliseconds(time) {
  return time.toFixed(1) + " ms";
}

function mebibytes(bytes) {
  return (bytes / 2 ** 20).toFixed(2) + " MiB";
}

const plain = (value) => String(Number(value.toPrecision(6)));

function interval(figures) {
  const { accuracy, accuracy_sd, ci_low, ci_high, n, seeds } = figures;
  const spread = accuracy_sd == null ? "" : ` \u00b1 ${(100 * accuracy_sd).toFixed(1)} over ${seeds} seeds`;
  return `${percent(accuracy)}${spread} [${percent(ci_low)}, ${percent(ci_high)}], n = ${n}`;
}

/** The lines of a row's tip. */
function tipLines(row) {
  const lines = [row.label, interval(row.figures)];
  const fastv = row.versus.fastv;
  if (fastv) lines.push(`${signed(fastv.points)} points against FastV, ${probability(fastv.p)}`);
  if (row.figures.prefill_ms_p50 != null) {
    lines.push(`first token ${row.figures.prefill_ms_p50.toFixed(1)} ms, FLOPs ${percent(row.figures.flops_ratio)}`);
  }
  return lines;
}

/** A sentence that says which line of a method has which settings; "" where each method has one line. */
function lineNote(rows) {
  const lines = new Map();
  for (const row of rows.filter((each) => !each.control)) {
    if (!lines.has(row.method)) lines.set(row.method, new Map());
    lines.get(row.method).set(row.line, row.dash);
  }
  const several = [...lines].filter(([, dashes]) => dashes.size > 1);
  if (several.some(([, dashes]) => dashes.size > DASHES.length)) return " A tip names the settings of its point.";
  const settings = (method, line) => line.replace(method, "").trim().replace(/^\(|\)$/g, "") || "otherwise";
  return several.map(([method, dashes]) => ` Lines of ${method}: ${[...dashes].map(([line, dash]) =>
    `${settings(method, line)} ${DASH_NAMES[dash % DASHES.length]}`).join(", ")}.`).join("");
}

function swatch(row) {
  return svg("svg", { viewBox: "-16 -7 32 14", class: row.color, "aria-hidden": "true" },
    svg("path", { class: "through", d: "M-14 0H14" }), svg("path", { class: "mark", d: MARKERS[row.marker] }));
}

/** The charts of a pool, which share one legend: accuracy over cost on the first screen, and the others below. */
class Charts {
  constructor(first, host, pool) {
    this.pool = pool;
    this.rows = pool.rows.filter((row) => isComplete(row) && !row.part && row.figures.accuracy != null);
    this.hidden = new Set(VIEW.values.getAll("hide"));
    this.cost = recalled("cost") || "flops_ratio";
    const costs = el("div", {});
    first.replaceChildren(costs, this.legend());
    this.tradeoff = new Chart(costs, "Accuracy over cost",
      `Bars show 95% intervals; a time is a median with its quartiles. Labels: ${AXES[pool.along].labels}.`
      + `${lineNote(this.rows)} The grey line is the best accuracy up to each cost. The axes need not start at 0.`,
      "Accuracy over cost");
    costs.querySelector(".head").after(this.costs());
    this.others(host);
    this.draw();
    for (const each of [first, host]) this.redrawOnResize(each);
  }

  others(host) {
    const charts = el("div", { class: "charts" }), over = AXES[this.pool.along].title;
    const maps = heatMaps(this.rows);
    host.replaceChildren(...(maps.length ? [el("h3", {}, "Accuracy over agg_layer and temperature"),
      el("div", { class: "heatmaps" }, maps)] : []), charts);
    this.accuracy = new Chart(charts, `Accuracy over ${over}`,
      `Bars show 95% intervals. Points with the same x are drawn side by side.${lineNote(this.rows)}`,
      `Accuracy over ${over}`);
    this.difference = new Chart(charts, `Difference to FastV, over ${over}`,
      "Percentage points on the same questions, at the same kept, with 95% intervals. Filled markers: p < 0.05 without "
      + "correction.", `Difference to FastV in percentage points, over ${over}`);
    this.difference.figure.hidden = !this.rows.some((row) => row.versus.fastv && !row.control);
    const families = familyTable(this.pool);
    if (families) host.append(families);
  }

  redrawOnResize(host) {
    let width = host.clientWidth;
    new ResizeObserver(() => {
      if (!host.isConnected || !host.clientWidth || host.clientWidth === width) return;
      width = host.clientWidth;
      this.draw();
    }).observe(host);
  }

  legend() {
    const legend = el("div", { class: "legend", role: "group", "aria-label": "Methods shown" });
    const seen = new Set();
    for (const row of this.rows) {
      if (seen.has(row.method)) continue;
      seen.add(row.method);
      const pressed = String(!this.hidden.has(row.method));
      legend.append(el("button", { type: "button", "aria-pressed": pressed, click: (event) => {
        const shown = this.hidden.delete(row.method);
        if (!shown) this.hidden.add(row.method);
        event.currentTarget.setAttribute("aria-pressed", String(shown));
        remember("hide", [...this.hidden]);
        this.draw();
      } }, swatch(row), row.method));
    }
    return legend;
  }

  costs() {
    const known = Object.keys(COSTS).filter((name) => this.rows.some((row) => this.costOf(row, name) != null));
    if (!known.includes(this.cost)) this.cost = known[0];
    const buttons = known.map((name) => el("button", { type: "button", "data-cost": name,
      "aria-pressed": String(name === this.cost), click: (event) => {
        for (const button of event.currentTarget.parentNode.querySelectorAll("button")) {
          button.setAttribute("aria-pressed", String(button === event.currentTarget));
        }
        this.cost = name;
        remember("cost", name === known[0] ? "" : name);
        this.draw();
      } }, COSTS[name].text));
    return el("div", { class: "controls" },
      el("div", { class: "group", role: "group", "aria-label": "Cost" }, buttons));
  }

  costOf(row, name) {
    return name.endsWith("_ms") ? row.figures[name + "_p50"] : row.figures[name];
  }

  draw() {
    const rows = this.rows.filter((row) => !this.hidden.has(row.method));
    this.accuracy.draw(this.accuracySpec(rows));
    this.difference.draw(this.differenceSpec(rows));
    this.tradeoff.draw(this.costSpec(rows));
  }

  accuracySpec(rows) {
    const reduced = rows.filter((row) => !row.control && row.x != null);
    const rules = [];
    for (const row of rows.filter((row) => row.control)) {
      const { accuracy, ci_low, ci_high } = row.figures;
      const dash = row.method === "full" ? "" : "6 4";
      const band = row.method === "full" ? { low: 100 * ci_low, high: 100 * ci_high } : {};
      rules.push({ y: 100 * accuracy, text: `${row.series} ${percent(accuracy)}`, dash, ...band });
    }
    const chance = rows.find((row) => row.figures.chance != null);
    if (chance) {
      const share = chance.figures.chance;
      rules.push({ y: 100 * share, text: `chance ${percent(share)}`, dash: "2 4" });
    }
    return {
      ...this.axis(reduced), rules, join: true, nudge: true, empty: "No point with reduced tokens is shown.",
      points: reduced.map((row) => ({ x: row.x, y: 100 * row.figures.accuracy, low: 100 * row.figures.ci_low,
        high: 100 * row.figures.ci_high, row, lines: tipLines(row) })),
      range: accuracyRange(rules, reduced), yFormat: (y) => plain(y) + "%",
    };
  }

  differenceSpec(rows) {
    const compared = rows.filter((row) => row.versus.fastv && !row.control && row.x != null);
    const ends = compared.flatMap(({ versus: { fastv } }) => [fastv.low, fastv.high, 0]);
    return {
      ...this.axis(compared), rules: [{ y: 0, text: "fastv", dash: "" }], join: false, nudge: true,
      empty: "No point shown here can be compared with FastV.",
      points: compared.map((row) => ({ x: row.x, y: row.versus.fastv.points, low: row.versus.fastv.low,
        high: row.versus.fastv.high, hollow: row.versus.fastv.p >= 0.05, row, lines: tipLines(row) })),
      range: [Math.floor(Math.min(...ends) / 5) * 5, Math.ceil(Math.max(...ends) / 5) * 5],
      yFormat: (y) => (y ? signed(y).replace(".0", "") : "0"),
    };
  }

  costSpec(rows) {
    const name = this.cost, scale = { kv_bytes: 2 ** 20, flops_ratio: 0.01 }[name] || 1;
    const priced = name ? rows.filter((row) => this.costOf(row, name) != null && row.method !== "no_image") : [];
    // Downsampled pictures may have all their tokens, and then cost as much as the full model.
    const costly = (row) => row.method === "downsample" && row.figures.flops_ratio > 0.97;
    const reduced = priced.filter((row) => !row.control && !costly(row));
    const timed = name && name.endsWith("_ms");
    // The full model costs far more: as a point it would squeeze the others together, so it is a horizontal line.
    const rules = priced.filter((row) => row.control).map((row) => ({ y: 100 * row.figures.accuracy, dash: "",
      text: `${row.series} ${percent(row.figures.accuracy)} at ${COSTS[name].format(this.costOf(row, name))}` }));
    // Points with fewer questions do not compete, as in the table of best points.
    const asked = (row) => row.figures.n + (row.figures.skipped || 0), most = Math.max(...reduced.map(asked));
    const front = pareto(reduced.filter((row) => asked(row) === most && row.method !== "downsample")
      .map((row) => [this.costOf(row, name) / scale, 100 * row.figures.accuracy]));
    return {
      front, tallest: 400,
      points: reduced.map((row) => ({
        x: this.costOf(row, name) / scale, y: 100 * row.figures.accuracy,
        low: 100 * row.figures.ci_low, high: 100 * row.figures.ci_high,
        left: timed ? row.figures[name + "_p25"] : undefined, right: timed ? row.figures[name + "_p75"] : undefined,
        row, text: AXES[this.pool.along].text(row),
        lines: [...tipLines(row), `${COSTS[name].text}: ${COSTS[name].format(this.costOf(row, name))}`],
      })),
      rules, range: accuracyRange(rules, reduced), yFormat: (y) => plain(y) + "%",
      join: true, xFormat: plain, xLabel: name ? COSTS[name].label : "", empty: "No costs are known.",
    };
  }

  /** The x axis of charts over the setting that varies. */
  axis(rows) {
    const values = [...new Set(rows.map((row) => row.x))].sort((a, b) => a - b);
    const { log, label } = AXES[this.pool.along];
    return { xTicks: values, log: log && values[0] > 0, xFormat: plain, xLabel: label };
  }
}

/** A range that contains all rules and intervals, from and to a multiple of 10%. */
function accuracyRange(rules, rows) {
  const lows = [...rules.map((rule) => rule.low ?? rule.y), ...rows.map((row) => 100 * row.figures.ci_low)];
  const highs = [...rules.map((rule) => rule.high ?? rule.y), ...rows.map((row) => 100 * row.figures.ci_high)];
  const round = (value, how) => Math.min(100, Math.max(0, how(value / 10) * 10));
  return [round(Math.min(...lows), Math.floor), round(Math.max(...highs), Math.ceil)];
}

/** The points that no other point beats in cost and accuracy, by rising cost. */
function pareto(points) {
  const front = [];
  for (const point of [...points].sort((a, b) => a[0] - b[0] || b[1] - a[1])) {
    if (!front.length || point[1] > front.at(-1)[1]) front.push(point);
  }
  return front;
}
