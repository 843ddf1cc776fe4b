// Pictures of one question that are shown at first.
const MOST_PICTURES = 18;

/** Two SVG paths: `cover` fills the visual tokens that were not kept, `kept` outlines those that were. */
function survivorPaths(positions, rows, columns) {
  let kept = "";
  for (const position of new Set(positions)) {
    kept += `M${position % columns} ${Math.floor(position / columns)}h1v1h-1Z`;
  }
  return { cover: `M0 0H${columns}V${rows}H0Z${kept}`, kept };
}

/** A picture with the visual tokens outside `positions` darkened; null darkens none. grid: [rows, columns]. */
function seenPicture(source, alt, positions, grid, color) {
  const frame = el("div", { class: "seen" }, el("img", { src: source, alt }));
  frame.style.aspectRatio = `${grid[1]} / ${grid[0]}`;
  if (positions !== null) {
    const paths = survivorPaths(positions, ...grid), viewBox = `0 0 ${grid[1]} ${grid[0]}`;
    frame.append(svg("svg", { viewBox, preserveAspectRatio: "none", class: color, "aria-hidden": "true" },
      svg("path", { class: "cover", d: paths.cover }), svg("path", { class: "kept ring", d: paths.kept })));
  }
  return frame;
}

/** Shows one question at a time: its picture once for each method, with the kept visual tokens bright. */
class Gallery {
  constructor(host, pool) {
    this.pool = pool;
    this.set = DATA.sets[pool.set];
    this.shown = pool.gallery;
    if (!this.shown.length) {
      host.replaceChildren(el("p", { class: "note" }, pool.no_gallery));
      return;
    }
    this.kept = [...new Set(pool.rows.filter((row) => row.positions && !row.control).map((row) => row.kept))];
    this.kept.sort((a, b) => a - b);
    const [question, count] = [this.set.id.indexOf(recalled("question")), Number(recalled("kept"))];
    this.question = this.shown.includes(question) ? question : this.shown[0];
    this.count = this.kept.includes(count) ? count : this.kept[0];
    this.strip = el("div", { class: "strip", role: "group", "aria-label": "Question" });
    this.counts = el("div", { class: "group", role: "group", "aria-label": "Kept visual tokens" });
    this.view = el("div", {});
    host.replaceChildren(this.strip, el("div", { class: "controls" }, this.counts), this.view);
    for (const question of this.shown) {
      this.strip.append(el("button", { type: "button", "aria-label": this.set.text[question], "data-at": question,
        click: () => { this.question = question; this.all = false; this.draw();
          remember("question", question === this.shown[0] ? "" : this.set.id[question]); } },
        el("img", { src: this.set.pictures[question], alt: "" })));
    }
    this.counts.append(el("span", {}, "kept"));
    for (const count of this.kept) {
      this.counts.append(el("button", { type: "button", "data-at": count,
        click: () => { this.count = count; this.all = false; this.draw();
          remember("kept", count === this.kept[0] ? "" : String(count)); } }, String(count)));
    }
    this.draw();
  }

  draw() {
    const { set, question } = this;
    const mark = (group, value) => {
      for (const button of group.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", String(Number(button.dataset.at) === value));
      }
    };
    mark(this.strip, question);
    mark(this.counts, this.count);
    const rows = this.pool.rows.filter((row) => isComplete(row) && (row.control || row.kept === this.count));
    const drawn = rows.filter((row) => row.positions || row.method === "full");
    const shown = this.all ? drawn : drawn.slice(0, MOST_PICTURES), left = drawn.length - shown.length;
    const more = el("button", { type: "button", click: () => { this.all = true; this.draw(); } }, `Show ${left} more`);
    this.view.replaceChildren(el("div", { class: "question" }, questionWords(set, question)),
      el("div", { class: this.pool.grid[0] === this.pool.grid[1] ? "gallery" : "gallery wide" }, shown.map((row) => this.figure(row))), ...(left ? [more] : []));
  }

  figure(row) {
    const { set, question } = this;
    const positions = row.method === "full" ? null : row.positions[question];
    if (positions === undefined) {
      return el("figure", {}, el("figcaption", {}, row.label,
        el("small", {}, "positions were not stored for this question")));
    }
    const choice = predictions(row)[question], right = isCorrect(row, question);
    const alt = positions ? `visual tokens that ${row.label} kept` : "the whole picture";
    const offered = (set.choices[question] || [])[choice];
    const words = choice === UNREADABLE && !(set.choices[question] || []).length;
    const said = words ? "an answer in words" : letter(choice) + (offered === undefined ? "" : `. ${offered}`);
    return el("figure", {},
      seenPicture(set.pictures[question], alt, positions, this.pool.grid, row.color),
      el("figcaption", {}, el("b", {}, row.label),
        el("small", { dir: "auto" },
          el("span", { class: right ? "right" : "wrong" }, right ? "right: " : "wrong: "), said)));
  }
}

/** The question's hint, text and choices. The right choice is marked. */
function questionWords(set, question) {
  const choices = (set.choices[question] || []).map((choice, at) => el("li", { dir: "auto" },
    `${LETTERS[at]}. ${choice}`,
    at === set.answer[question] ? el("span", { class: "right" }, " \u2713 the answer") : null));
  const accepted = (set.accepted[question] || []).map((answer) => el("li", { dir: "auto" }, `accepted: ${answer}`));
  const hint = set.hint[question];
  return [
    hint ? el("p", { class: "note", dir: "auto" }, hint) : null,
    el("p", { dir: "auto" }, el("b", {}, set.text[question] || set.id[question])),
    el("ul", { class: "choices" }, choices, accepted),
    el("p", { class: "tag", dir: "auto" }, set.id[question]),
  ].filter(Boolean);
}
