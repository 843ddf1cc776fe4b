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

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") === "ascending";
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortTable(table, column, descending);
    });
  });
}
