/** Weights as colours: each to its own maximum, over the picture in grey. Row of bytes, one per visual token. */
function heatCanvas(weights, colors, grid) {
  const canvas = el("canvas", { width: grid[1], height: grid[0], "aria-hidden": "true" });
  const context = canvas.getContext("2d"), image = context.createImageData(grid[1], grid[0]);
  weights.forEach((weight, at) => {
    for (let channel = 0; channel < 3; channel++) image.data[4 * at + channel] = colors[3 * weight + channel];
    image.data[4 * at + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** One method at one kept: its survivors on the picture, and a map for each centroid that shows itself large. */
class Cell {
  constructor(cell, picture, grid, colors) {
    Object.assign(this, { cell, picture, grid, colors });
    this.weights = cell.weights === null ? null : bytes(cell.weights);
    this.large = el("div", {});
    this.told = el("small", { role: "status" });
    this.maps = el("div", { class: "maps" });
    this.whole();
    if (this.weights) cell.positions.forEach((position, at) => this.maps.append(this.map(position, at)));
    this.maps.addEventListener("pointerleave", () => this.whole());
  }

  element() {
    return el("figure", {}, this.large, el("figcaption", {}, el("b", {}, this.cell.label),
      el("span", { dir: "auto" }, `answers ${this.cell.answer}`), this.told), this.maps);
  }

  whole() {
    const alt = `what ${this.cell.label} kept of the picture`;
    this.large.replaceChildren(seenPicture(this.picture, alt, this.cell.positions, this.grid, this.cell.color));
    this.told.textContent = this.cell.told;
  }

  of(at) {
    const count = this.grid[0] * this.grid[1];
    return this.weights.subarray(at * count, (at + 1) * count);
  }

  seen(position, at) {
    const frame = seenPicture(this.picture, "", [position], this.grid, "own");
    frame.querySelector(".cover").remove();
    frame.querySelector("img").after(heatCanvas(this.of(at), this.colors, this.grid));
    return frame;
  }

  map(position, at) {
    const place = `centroid ${at + 1}, row ${Math.floor(position / this.grid[1]) + 1}, `
      + `column ${(position % this.grid[1]) + 1}`;
    const show = () => {
      this.large.replaceChildren(this.seen(position, at));
      this.told.textContent = `${place}: gathers from ${this.cell.effective[at]} tokens in effect`;
    };
    const whole = () => this.whole();
    return el("button", { type: "button", "aria-label": place, pointerenter: show, focus: show, blur: whole },
      this.seen(position, at));
  }
}

const colors = bytes(DATA.colors);
const shown = DATA.cells.map((cell) => new Cell(cell, DATA.picture, DATA.grid, colors).element());
document.getElementById("cells").append(...shown);
document.documentElement.dataset.ready = "true";
