const CHUNK = 40;
const CHANGES = {
  any: ["all questions", () => true],
  lost: ["right \u2192 wrong", (before, after) => before && !after],
  won: ["wrong \u2192 right", (before, after) => !before && after],
  changed: ["right in only one", (before, after) => before !== after],
  both: ["right in both", (before, after) => before && after],
  neither: ["wrong in both", (before, after) => !before && !after],
};

/** The questions of a pool, with the answers of two points. Filters: change of the answer, family, words. */
class Questions {
  constructor(host, pool) {
    this.pool = pool;
    this.set = DATA.sets[pool.set];
    this.rows = pool.rows.filter((row) => row.predictions && isComplete(row));
    if (!this.rows.length) {
      host.replaceChildren(el("p", { class: "note" }, "No point is complete, so there are no answers to compare."));
      return;
    }
    const usual = { before: Math.max(this.rows.findIndex((row) => row.method === "full"), 0) };
    usual.after = this.rows.findIndex((row) => !row.control && row.key === pool.featured);
    if (usual.after < 0) usual.after = this.rows.findIndex((row, at) => at !== usual.before);
    if (usual.after < 0) usual.after = usual.before;
    this.usual = usual;
    const chosen = (name) => this.rows.findIndex((row) => row.label === recalled(name));
    this.before = chosen("before") < 0 ? usual.before : chosen("before");
    this.after = chosen("after") < 0 ? usual.after : chosen("after");
    this.count = el("p", { role: "status", class: "note", "data-count": "" });
    this.list = el("ul", { class: "questions" });
    this.more = el("button", { type: "button", click: () => this.extend() });
    const { asked, id } = this.set;
    const sample = asked === id.length ? null : el("p", { class: "note", "data-sample": "" },
      `This page contains a random sample of ${id.length} of the ${asked} questions. `
      + `Figures, intervals and tests cover all ${asked}.`);
    host.replaceChildren(...[sample, this.controls(), this.count, this.list, this.more].filter(Boolean));
    const { text, hint, choices } = this.set;
    this.words = this.set.id.map((id, at) => [id, text[at], hint[at], ...(choices[at] || [])].filter(Boolean)
      .join("\n").toLocaleLowerCase());
    this.filter();
  }

  controls() {
    const points = (value) => this.rows.map((row, at) =>
      el("option", { value: at, selected: at === value }, row.label));
    const changed = () => {
      this.filter();
      this.rememberAll();
    };
    this.inputs = {
      before: el("select", { name: "before", change: changed }, points(this.before)),
      after: el("select", { name: "after", change: changed }, points(this.after)),
      change: el("select", { name: "change", change: changed },
        Object.entries(CHANGES).map(([name, [text]]) =>
          el("option", { value: name, selected: name === recalled("change") }, text))),
      search: el("input", { type: "search", name: "search", value: recalled("search"), input: () => {
        clearTimeout(this.waiting);
        this.waiting = setTimeout(changed, 120);
      } }),
    };
    const labelled = (text, input) => el("label", {}, text, input);
    const controls = el("div", { class: "controls" }, labelled("from point", this.inputs.before),
      labelled("to point", this.inputs.after), labelled("show", this.inputs.change));
    for (const [name, text] of [["family", "family"], ["topic", "topic"], ["subject", "subject"]]) {
      const values = [...new Set(this.set[name].filter(Boolean))].sort();
      if (values.length < 2) continue;
      this.inputs[name] = el("select", { name, change: changed }, el("option", { value: "" }, "all"),
        values.map((value) => el("option", { value, selected: value === recalled(name) }, value)));
      controls.append(labelled(text, this.inputs[name]));
    }
    controls.append(labelled("words in the question", this.inputs.search));
    return controls;
  }

  rememberAll() {
    const { before, after, change, ...others } = this.inputs;
    for (const [name, { value }] of Object.entries({ before, after })) {
      remember(name, Number(value) === this.usual[name] ? "" : this.rows[value].label);
    }
    remember("change", change.value === "any" ? "" : change.value);
    for (const [name, input] of Object.entries(others)) remember(name, input.value.trim());
  }

  filter() {
    const value = (name) => (this.inputs[name] ? this.inputs[name].value : "");
    const [before, after] = [this.rows[Number(value("before"))], this.rows[Number(value("after"))]];
    const keep = CHANGES[value("change")][1], words = value("search").trim().toLocaleLowerCase();
    this.pair = [before, after];
    this.found = [];
    let total = 0;
    for (let at = 0; at < this.set.id.length; at++) {
      if (!answered(before, at) || !answered(after, at)) continue;
      total++;
      if (!keep(isCorrect(before, at), isCorrect(after, at)) || !this.words[at].includes(words)) continue;
      if (["family", "topic", "subject"].some((name) => value(name) && this.set[name][at] !== value(name))) continue;
      this.found.push(at);
    }
    this.count.dataset.count = this.found.length;
    const here = this.set.asked === this.set.id.length ? "" : " of this page";
    this.count.textContent = `${this.found.length} of the ${total} questions${here} that both points answered`;
    this.list.replaceChildren();
    this.extend();
  }

  extend() {
    const from = this.list.children.length;
    this.list.append(...this.found.slice(from, from + CHUNK).map((at) => this.item(at)));
    const left = this.found.length - this.list.children.length;
    this.more.hidden = left <= 0;
    this.more.textContent = `Show ${Math.min(CHUNK, left)} more of ${left}`;
  }

  item(at) {
    const [before, after] = this.pair.map((row) => isCorrect(row, at));
    const word = (right) => el("span", { class: right ? "right" : "wrong" }, right ? "right" : "wrong");
    const family = this.set.family[at] || this.set.topic[at];
    const details = el("details", { toggle: () => {
      if (details.open && details.children.length === 1) details.append(this.body(at));
    } }, el("summary", {},
      el("span", { class: "words", dir: "auto" }, this.set.text[at] || this.set.id[at],
        family ? el("span", { class: "tag" }, ` (${family})`) : null),
      el("span", { class: "verdict" }, word(before), " \u2192 ", word(after))));
    return el("li", { "data-id": this.set.id[at] }, details);
  }

  /** The picture, and the choices with the points that chose them. */
  body(at) {
    const { set } = this;
    const labels = new Map();
    for (const row of this.rows) {
      const choice = predictions(row)[at];
      if (choice === NOT_EVALUATED) continue;
      const said = (set.choices[at] || []).length || choice !== UNREADABLE ? choice : answerOf(set, row, at);
      labels.set(said, [...(labels.get(said) || []), row.label]);
    }
    const choices = set.choices[at] || [];
    const items = choices.map((choice, index) => [index, `${LETTERS[index]}. ${choice}`]);
    for (const choice of labels.keys()) {
      if (typeof choice === "string") items.push([choice, choice]);
      else if (choice >= choices.length) items.push([choice, letter(choice)]);
    }
    for (const answer of set.accepted[at] || []) items.push([-1, `accepted: ${answer}`]);
    const list = items.map(([index, text]) => el("li", { dir: "auto" }, text,
      index === set.answer[at] ? el("span", { class: "right" }, " \u2713 the answer") : null,
      labels.has(index) ? el("span", { class: "by", dir: "auto" }, "chosen by ", labels.get(index).join(", ")) : null));
    const words = el("div", {}, set.hint[at] ? el("p", { class: "note", dir: "auto" }, set.hint[at]) : null,
      el("ul", { class: "choices" }, list), el("p", { class: "tag", dir: "auto" }, set.id[at]));
    const picture = set.pictures[at] || set.thumbnails[at];
    if (!picture) words.append(el("p", { class: "tag" }, set.no_picture));
    const film = set.videos.includes(at), alt = film ? "frames of the question's video" : "the question's picture";
    return el("div", { class: picture ? (film ? "body film" : "body") : "body plain" },
      picture ? el("img", { src: picture, alt }) : null, words);
  }
}
