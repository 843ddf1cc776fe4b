/** Shows one pool and hides the others, because figures of different pools cannot be compared. */
function showPool(index) {
  for (const element of document.querySelectorAll("[data-pool]")) {
    element.hidden = Number(element.dataset.pool) !== index;
  }
  const pool = DATA.pools[index];
  new PointsTable(document.querySelector(`[data-pool="${index}"] table.points`), pool);
  new Charts(document.getElementById("cost-view"), document.getElementById("charts-view"), pool);
  new Gallery(document.getElementById("pictures-view"), pool);
  new Questions(document.getElementById("questions-view"), pool);
}

readView();
const chooser = document.getElementById("pool");
if (chooser) {
  const chosen = Number(recalled("evaluation")) || 0;
  chooser.value = String(DATA.pools[chosen] ? chosen : 0);
  chooser.addEventListener("change", () => {
    forgetFilters();
    remember("evaluation", chooser.value === "0" ? "" : chooser.value);
    showPool(Number(chooser.value));
  });
}
if (DATA.pools.length) showPool(chooser ? Number(chooser.value) : 0);
followAddress();
document.documentElement.dataset.ready = "true";
