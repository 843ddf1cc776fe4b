/** Sorts a table by one column. Rows without a value come last; equal rows keep their order. */
function sortTable(table, column, descending) {
  const body = table.tBodies[0];
  const value = (row) => row.cells[column].dataset.value;
  const numeric = table.tHead.rows[0].cells[column].dataset.type === "number";
  const order = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b));
  const rows = [...body.rows];
  const empty = rows.filter((row) => value(row) === "");
  const filled = rows.filter((row) => value(row) !== "");
  filled.sort((a, b) => (descending ? -1 : 1) * order(value(a), value(b)));
  body.append(...filled, ...empty);
}

/** The table of all points: sorted by a click, filtered by words, and without the columns that do not fit. */
class PointsTable {
  constructor(table, pool) {
    Object.assign(this, { table, pool, all: false, frame: table.parentNode });
    this.headers = [...table.tHead.rows[0].cells];
    const host = this.frame.previousElementSibling;
    this.search = el("input", { type: "search", name: "points", value: recalled("points"),
      input: () => this.filter() });
    this.more = el("button", { type: "button", class: "more", click: () => {
      this.all = !this.all;
      this.fit();
    } });
    this.count = el("span", { role: "status", class: "note" });
    host.replaceChildren(el("label", {}, "words in the point's name", this.search), this.more,
      el("button", { type: "button", class: "save", click: () => this.saveCsv() }, "CSV"),
      el("button", { type: "button", class: "save", click: () => this.saveLatex() }, "LaTeX"), this.count);
    this.headers.forEach((header, column) => {
      header.querySelector("button").onclick = () => this.sort(column, header.ariaSort === "ascending");
    });
    const [, minus, name] = recalled("sort").match(/^(-?)(.*)$/);
    const sorted = this.headers.findIndex((header) => header.dataset.name === name);
    if (sorted >= 0) this.sort(sorted, minus === "-");
    this.filter();
    new ResizeObserver(() => this.fit()).observe(this.frame);
  }

  sort(column, descending) {
    this.headers.forEach((header, at) => {
      header.ariaSort = at !== column ? "none" : descending ? "descending" : "ascending";
    });
    sortTable(this.table, column, descending);
    remember("sort", (descending ? "-" : "") + this.headers[column].dataset.name);
  }

  filter() {
    const words = this.search.value.trim().toLocaleLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of this.table.tBodies[0].rows) {
      const name = row.dataset.label.toLocaleLowerCase();
      row.hidden = !words.every((word) => name.includes(word));
      shown += !row.hidden;
    }
    const { length } = this.table.tBodies[0].rows;
    this.count.textContent = shown < length ? `${shown} of ${length} points` : "";
    remember("points", this.search.value.trim());
  }

  /** Leaves out the least important columns until the table is not wider than its frame, unless all are wanted. */
  fit() {
    if (!this.frame.clientWidth) return;
    this.leaveOut(new Set());
    const widths = this.headers.map((header) => header.offsetWidth), out = new Set();
    if (!this.all) {
      const ranked = this.headers.map((header, at) => at).sort((a, b) =>
        this.headers[b].dataset.rank - this.headers[a].dataset.rank);
      const isSetting = (at) => "setting" in this.headers[at].dataset;
      let total = widths.reduce((sum, width) => sum + width, 0);
      for (const at of ranked) {
        if (total <= this.frame.clientWidth + 1) break;
        if (Number(this.headers[at].dataset.rank) === 0) break;
        if (out.has(at)) continue;
        for (const each of isSetting(at) ? ranked.filter(isSetting) : [at]) {
          out.add(each);
          total -= widths[each];
        }
      }
      if (out.size) this.leaveOut(out);
    }
    const names = [...out].sort((a, b) => a - b).map((at) => this.headers[at].textContent);
    this.more.hidden = !out.size && !this.all;
    this.more.textContent = this.all ? "Fewer columns" : `${out.size} more column${out.size > 1 ? "s" : ""}`;
    this.more.title = names.join(", ");
  }

  leaveOut(columns) {
    const folded = [...columns].some((at) => "setting" in this.headers[at].dataset);
    this.table.classList.toggle("folded", folded);
    for (const row of this.table.rows) {
      [...row.cells].forEach((cell, at) => cell.classList.toggle("left-out", columns.has(at)));
    }
  }

  /** The figures of the shown rows, in their order. */
  rows() {
    const shown = [...this.table.tBodies[0].rows].filter((row) => !row.hidden);
    return shown.map((row) => this.pool.rows.find((each) => each.id === row.dataset.id));
  }

  saveCsv() {
    save(`${document.title} points.csv`, "text/csv", toCsv(this.rows()));
  }

  saveLatex() {
    save(`${document.title} points.tex`, "application/x-tex", toLatex(this.table));
  }
}
