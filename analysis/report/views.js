const COSTS = {
  flops_ratio: { text: "FLOPs", label: "prefill FLOPs, % of the full model's (exact)", format: percent },
  prefill_ms: { text: "Time to first token", label: "time to first token, ms", format: milliseconds },
  total_ms: { text: "Whole answer", label: "time of the whole answer, ms", format: milliseconds },
  kv_bytes: { text: "KV cache", label: "KV cache after the prompt, MiB", format: mebibytes },
};

function milliseconds(time) {
  return time.toFixed(1) + " ms";
}

function mebibytes(bytes) {
  return (bytes / 2 ** 20).toFixed(2) + " MiB";
}

const plain = (value) => String(Number(value.toPrecision(6)));

function interval(figures) {
  return `${percent(figures.accuracy)} [${percent(figures.ci_low)}, ${percent(figures.ci_high)}], n = ${figures.n}`;
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

function swatch(row) {
  return svg("svg", { viewBox: "-16 -7 32 14", class: row.color, "aria-hidden": "true" },
    svg("path", { class: "through", d: "M-14 0H14" }), svg("path", { class: "mark", d: MARKERS[row.marker] }));
}

/** The charts of a pool: accuracy, difference to FastV and cost, which share one legend, and accuracy by family. */
class Charts {
  constructor(host, pool) {
    this.rows = pool.rows.filter((row) => isComplete(row) && row.figures.accuracy != null);
    this.hidden = new Set();
    this.cost = "flops_ratio";
    const charts = el("div", { class: "charts" });
    host.replaceChildren(this.legend(), charts);
    this.accuracy = new Chart(charts, "Accuracy over kept visual tokens",
      "Bars show Wilson's 95% intervals. Points of the same kept are drawn side by side.", "Accuracy over kept visual tokens");
    this.difference = new Chart(charts, "Difference to FastV at the same kept",
      "Percentage points on the same questions, with 95% intervals. Filled markers: p < 0.05 by McNemar's exact "
      + "test, without correction.", "Difference to FastV in percentage points, over kept visual tokens");
    const third = el("div", {});
    charts.append(third);
    this.tradeoff = new Chart(third, "Accuracy against cost",
      "Bars show 95% intervals; a time is a median with its quartiles. Lines join the points of a method. "
      + "The axes need not start at 0.",
      "Accuracy against cost");
    third.querySelector("h3").after(this.costs());
    charts.append(familyTable(pool));
    this.draw();
    this.width = host.clientWidth;
    new ResizeObserver(() => {
      if (host.clientWidth && host.clientWidth !== this.width) {
        this.width = host.clientWidth;
        this.draw();
      }
    }).observe(host);
  }

  legend() {
    const legend = el("div", { class: "legend", role: "group", "aria-label": "Methods shown" });
    const seen = new Set();
    for (const row of this.rows) {
      if (seen.has(row.method)) continue;
      seen.add(row.method);
      legend.append(el("button", { type: "button", "aria-pressed": "true", click: (event) => {
        const shown = this.hidden.delete(row.method);
        if (!shown) this.hidden.add(row.method);
        event.currentTarget.setAttribute("aria-pressed", String(shown));
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
    const reduced = rows.filter((row) => !row.control);
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
    const values = [...rules.map((rule) => rule.low ?? rule.y), ...reduced.map((row) => 100 * row.figures.ci_low)];
    return {
      ...keptAxis(reduced), rules, join: true, nudge: true, empty: "No point with reduced tokens is shown.",
      points: reduced.map((row) => ({ x: row.kept, y: 100 * row.figures.accuracy, low: 100 * row.figures.ci_low,
        high: 100 * row.figures.ci_high, row, lines: tipLines(row) })),
      range: [Math.max(0, Math.floor(Math.min(...values) / 10) * 10), 100], yFormat: (y) => plain(y) + "%",
    };
  }

  differenceSpec(rows) {
    const compared = rows.filter((row) => row.versus.fastv && !row.control);
    const ends = compared.flatMap(({ versus: { fastv } }) => [fastv.low, fastv.high, 0]);
    return {
      ...keptAxis(compared), rules: [{ y: 0, text: "fastv", dash: "" }], join: false, nudge: true,
      empty: "No point shown here can be compared with FastV.",
      points: compared.map((row) => ({ x: row.kept, y: row.versus.fastv.points, low: row.versus.fastv.low,
        high: row.versus.fastv.high, hollow: row.versus.fastv.p >= 0.05, row, lines: tipLines(row) })),
      range: [Math.floor(Math.min(...ends) / 5) * 5, Math.ceil(Math.max(...ends) / 5) * 5],
      yFormat: (y) => (y ? signed(y).replace(".0", "") : "0"),
    };
  }

  costSpec(rows) {
    const name = this.cost, scale = { kv_bytes: 2 ** 20, flops_ratio: 0.01 }[name] || 1;
    const priced = name ? rows.filter((row) => this.costOf(row, name) != null && row.method !== "no_image") : [];
    const reduced = priced.filter((row) => !row.control);
    const timed = name && name.endsWith("_ms");
    // The full model costs far more: as a point it would squeeze the others together, so it is a horizontal line.
    const rules = priced.filter((row) => row.control).map((row) => ({ y: 100 * row.figures.accuracy, dash: "",
      text: `${row.series} ${percent(row.figures.accuracy)} at ${COSTS[name].format(this.costOf(row, name))}` }));
    const values = [...rules.map((rule) => rule.y), ...reduced.map((row) => 100 * row.figures.ci_low)];
    return {
      points: reduced.map((row) => ({
        x: this.costOf(row, name) / scale, y: 100 * row.figures.accuracy,
        low: 100 * row.figures.ci_low, high: 100 * row.figures.ci_high,
        left: timed ? row.figures[name + "_p25"] : undefined, right: timed ? row.figures[name + "_p75"] : undefined,
        row, lines: [...tipLines(row), `${COSTS[name].text}: ${COSTS[name].format(this.costOf(row, name))}`],
      })),
      rules, range: [Math.max(0, Math.floor(Math.min(...values) / 10) * 10), 100], yFormat: (y) => plain(y) + "%",
      join: true, xFormat: plain, xLabel: name ? COSTS[name].label : "", empty: "No costs are known.",
    };
  }
}

function keptAxis(rows) {
  const kept = [...new Set(rows.map((row) => row.kept))].sort((a, b) => a - b);
  return { xTicks: kept, log: kept[0] > 0, xFormat: plain, xLabel: "kept visual tokens" };
}

/** A table of accuracy by family of questions: the full model, and every method at one kept. */
function familyTable(pool) {
  const set = DATA.sets[pool.set], host = el("figure", { class: "chart" });
  const name = ["family", "topic", "subject"].find((kind) => new Set(set[kind].filter(Boolean)).size > 1);
  const rows = pool.rows.filter((row) => isComplete(row) && row.predictions);
  const kept = [...new Set(rows.filter((row) => !row.control).map((row) => row.kept))].sort((a, b) => a - b);
  if (!name || !kept.length) return host;
  const groups = [...new Set(set[name].filter(Boolean))].sort();
  const buttons = el("div", { class: "group", role: "group", "aria-label": "Kept visual tokens" });
  buttons.append(el("span", {}, "kept"));
  const frame = el("div", { class: "frame", tabindex: 0, role: "region", "aria-label": `Accuracy by ${name}` });
  const note = "Percentage of right answers. Groups are small: they show where a method fails, not which is best.";
  host.append(el("h3", {}, `Accuracy by ${name}`), el("div", { class: "controls" }, buttons), frame,
    el("figcaption", {}, note));
  const show = (count) => {
    for (const button of buttons.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.at) === count));
    }
    frame.replaceChildren(groupTable(rows.filter((row) => row.control || row.kept === count), set, name, groups));
  };
  for (const count of kept) {
    buttons.append(el("button", { type: "button", "data-at": count, click: () => show(count) }, String(count)));
  }
  show(kept[0]);
  return host;
}

function groupTable(rows, set, name, groups) {
  const named = (text) => el("th", { class: "plain", scope: "col" }, text);
  const head = el("tr", {}, named(name), rows.map((row) => named(row.series)));
  const body = groups.map((group) => {
    const members = set[name].flatMap((value, at) => (value === group ? [at] : []));
    const answers = rows.map((row) => members.filter((question) => answered(row, question)));
    const most = Math.max(...answers.map((questions) => questions.length));
    return el("tr", {}, el("th", { dir: "auto" }, group, el("small", {}, `of ${most}`)), rows.map((row, at) => {
      const count = answers[at].length, right = answers[at].filter((question) => isCorrect(row, question)).length;
      return el("td", { "data-value": count ? right / count : "" },
        count ? String(Math.round((100 * right) / count)) : "",
        count < most ? el("small", {}, `of ${count}`) : null);
    }));
  });
  return el("table", {}, el("thead", {}, head), el("tbody", {}, body));
}
