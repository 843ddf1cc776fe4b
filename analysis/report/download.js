const DRAWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size",
  "font-weight", "text-anchor"];
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const LATEX = { "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{",
  "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\u2212": "$-$", "\u00d7": "$\\times$",
  "\u00b1": "$\\pm$", "<": "$<$", ">": "$>$" };

/** Offers a text as a file. */
function save(name, type, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: fileName(name) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function fileName(name) {
  const [stem, ending] = name.split(/\.(?=[a-z]+$)/);
  return `${stem.replace(/[^A-Za-z0-9]+/g, "_").replace(/^_|_$/g, "").toLowerCase()}.${ending}`;
}

/** A button that saves a figure as an SVG file. make: returns the SVG element as it is to be saved. */
function svgButton(title, make) {
  return el("button", { type: "button", class: "save", "aria-label": `Save the figure "${title}" as SVG`,
    click: () => save(`${title}.svg`, "image/svg+xml", new XMLSerializer().serializeToString(make())) }, "SVG");
}

/** A copy of a drawing that does not need the page's styles, on the page's background. */
function standalone(drawing) {
  const copy = drawing.cloneNode(true), [, , width, height] = drawing.getAttribute("viewBox").split(" ");
  const sources = drawing.querySelectorAll("*"), copies = copy.querySelectorAll("*");
  sources.forEach((source, at) => {
    const style = getComputedStyle(source);
    for (const name of DRAWN) copies[at].setAttribute(name, style.getPropertyValue(name));
    copies[at].removeAttribute("class");
  });
  for (const name of [...copy.getAttributeNames()]) if (name !== "viewBox") copy.removeAttribute(name);
  for (const [name, value] of [["width", width], ["height", height], ["font-family", FONT]]) {
    copy.setAttribute(name, value);
  }
  const page = getComputedStyle(document.body).backgroundColor;
  copy.prepend(svg("rect", { x: 0, y: 0, width, height, fill: page }));
  return copy;
}

/** The figures of rows as comma-separated values: names, all exact figures, and all comparisons. */
function toCsv(rows) {
  const names = { method: (row) => row.method, setting: (row) => row.setting, kept: (row) => row.kept,
    status: (row) => row.status };
  const figures = [...new Set(rows.flatMap((row) => Object.keys(row.figures)))];
  for (const name of figures) names[name] = (row) => row.figures[name];
  for (const reference of new Set(rows.flatMap((row) => Object.keys(row.versus)))) {
    for (const name of ["points", "low", "high", "p", "p_holm", "n"]) {
      names[`vs_${reference}_${name}`] = (row) => row.versus[reference]?.[name];
    }
  }
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = rows.map((row) => Object.values(names).map((value) => quoted(String(value(row) ?? ""))));
  return [Object.keys(names), ...lines].map((line) => line.join(",") + "\r\n").join("");
}

/** The rows and columns of a table that are shown, as a LaTeX tabular with the rules of booktabs. */
function toLatex(table) {
  const visible = (cell) => cell.offsetParent !== null;
  const head = [...table.tHead.rows[0].cells].filter(visible);
  const escaped = (text) => text.trim().replace(/[\\&%$#_{}~^<>\u2212\u00d7\u00b1]/g, (character) => LATEX[character]);
  const isShown = (node) => node.nodeType === Node.TEXT_NODE || getComputedStyle(node).display !== "none";
  const parts = (cell) => [...cell.childNodes].filter(isShown).map((node) => node.textContent.trim()).filter(Boolean);
  const words = (cell) => escaped(parts(cell).join(" "));
  const line = (cells) => `${cells.filter(visible).map(words).join(" & ")} \\\\`;
  const columns = head.map((cell) => (cell.dataset.type === "number" ? "r" : "l")).join("");
  const rows = [...table.tBodies[0].rows].filter(visible).map((row) => line([...row.cells]));
  return [`% needs \\usepackage{booktabs}`, `\\begin{tabular}{${columns}}`, "\\toprule", line(head), "\\midrule",
    ...rows, "\\bottomrule", "\\end{tabular}", ""].join("\n");
}
