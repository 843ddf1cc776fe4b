/** Shows one pool and hides the others, because figures of different pools cannot be compared. */
function showPool(index) {
  for (const element of document.querySelectorAll("[data-pool]")) {
    element.hidden = Number(element.dataset.pool) !== index;
  }
  const pool = DATA.pools[index];
  new Charts(document.getElementById("charts-view"), pool);
  new Gallery(document.getElementById("pictures-view"), pool);
  new Questions(document.getElementById("questions-view"), pool);
}

for (const table of document.querySelectorAll("table.points")) makeSortable(table);
const chooser = document.getElementById("pool");
if (chooser) chooser.addEventListener("change", () => showPool(Number(chooser.value)));
if (DATA.pools.length) showPool(0);
document.documentElement.dataset.ready = "true";
