/** A table of accuracy by family of questions: the controls and every point at one kept, one line each. */
function familyTable(pool) {
  const set = DATA.sets[pool.set], host = el("figure", { class: "chart wide" });
  const name = ["family", "topic", "subject"].find((kind) => new Set(set[kind].filter(Boolean)).size > 1);
  const rows = pool.rows.filter((row) => isComplete(row) && row.predictions);
  const kept = [...new Set(rows.filter((row) => !row.control).map((row) => row.kept))].sort((a, b) => a - b);
  if (!name || !kept.length) return null;
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

/** The longer list goes down and the shorter one across, so that the table stays narrow. Seeds are averaged. */
function groupTable(points, set, name, groups) {
  const members = groups.map((group) => set[name].flatMap((value, at) => (value === group ? [at] : [])));
  const most = members.map((own) => Math.max(...points.map((row) => own.filter((at) => answered(row, at)).length)));
  const rows = [...new Map(points.map((row) => [row.series, points.filter((each) => each.series === row.series)]))];
  const cell = (seeds, group) => {
    const asked = seeds.map((row) => members[group].filter((at) => answered(row, at)));
    const shares = seeds.map((row, nth) => asked[nth].filter((at) => isCorrect(row, at)).length / asked[nth].length);
    const share = shares.reduce((sum, each) => sum + each, 0) / seeds.length;
    const count = Math.min(...asked.map((questions) => questions.length));
    return el("td", { "data-value": count ? share : "" }, count ? String(Math.round(100 * share)) : "",
      count < most[group] ? el("small", {}, `of ${count}`) : null);
  };
  const pointHead = ([series], scope) => el("th", { scope, class: "plain", dir: "auto" }, series);
  const groupHead = (at, scope) =>
    el("th", { scope, class: "plain", dir: "auto" }, groups[at], el("small", {}, `of ${most[at]}`));
  const places = groups.map((group, at) => at), corner = (text) => el("th", { class: "plain", scope: "col" }, text);
  const [head, body] = groups.length <= rows.length
    ? [[corner("point"), ...places.map((at) => groupHead(at, "col"))],
      rows.map((row) => [pointHead(row, "row"), ...places.map((at) => cell(row[1], at))])]
    : [[corner(name), ...rows.map((row) => pointHead(row, "col"))],
      places.map((at) => [groupHead(at, "row"), ...rows.map((row) => cell(row[1], at))])];
  return el("table", { class: "groups" }, el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, body.map((line) => el("tr", {}, line))));
}
