/** The filters, kept in the page's address as "#section?name=value", so that a copied address shows the same view. */
const VIEW = { section: "", values: new URLSearchParams() };

function readView() {
  const [section, query] = location.hash.slice(1).split("?");
  VIEW.section = section;
  VIEW.values = new URLSearchParams(query || "");
}

/** Remembers a filter. value: text, a list of texts, or null or "" for the default. */
function remember(name, value) {
  VIEW.values.delete(name);
  for (const item of [value ?? ""].flat()) if (item !== "") VIEW.values.append(name, item);
  writeView();
}

function recalled(name) {
  return VIEW.values.get(name) ?? "";
}

/** Forgets the filters that belong to one evaluation, because another one is shown. */
function forgetFilters() {
  VIEW.values = new URLSearchParams();
}

function writeView() {
  const query = String(VIEW.values);
  try {
    history.replaceState(null, "", `#${VIEW.section}${query ? "?" + query : ""}`);
  } catch {
    // A page that is embedded without an address of its own cannot keep filters in it.
  }
}

/** A click on a link to a section keeps the filters. A pasted address replaces them, which needs a new start. */
function followAddress() {
  window.addEventListener("hashchange", () => {
    const [section, query] = location.hash.slice(1).split("?");
    if (query) return location.reload();
    VIEW.section = section;
    writeView();
  });
  if (VIEW.section) document.getElementById(VIEW.section)?.scrollIntoView();
}
