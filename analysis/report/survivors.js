/** A canvas that shows weights as colours. weights: one byte per visual token. colors: three bytes per weight. */
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

/** An answer, and whether it is right if that is known. */
function answerWords(verb, { answer, right }) {
  const verdict = right === null ? null : el("span", { class: right ? "right" : "wrong" }, right ? " right" : " wrong");
  return el("span", { dir: "auto" }, `${verb} ${answer}`, verdict);
}

/** The whole picture, which starts each line. */
function wholePicture() {
  return el("figure", { class: "whole" },
    seenPicture(DATA.picture, `${DATA.whole}, as the model sees it`, null, DATA.grid, ""),
    el("figcaption", {}, el("b", {}, DATA.whole), answerWords("the full model answers", DATA.full)));
}

/** The colours of the maps, from 0 to the largest weight. */
function colorBar(colors) {
  const canvas = heatCanvas(Uint8Array.from({ length: 256 }, (value, at) => at), colors, [1, 256]);
  return el("figure", { class: "bar" }, canvas,
    el("figcaption", {}, el("span", {}, "weight 0"), el("span", {}, "the largest weight of the map")));
}

/** One method at one kept: its survivors on the picture, and a small map for each centroid, which can be enlarged. */
class Cell {
  constructor(cell, picture, grid, colors) {
    Object.assign(this, { cell, picture, grid, colors });
    this.weights = cell.weights === null ? null : bytes(cell.weights);
    this.large = el("div", {});
    this.status = el("small", { role: "status" });
    this.maps = el("div", { class: "maps" });
    this.showAll();
    if (this.weights) cell.positions.forEach((position, at) => this.maps.append(this.map(position, at)));
    this.maps.addEventListener("pointerleave", () => this.showAll());
  }

  element() {
    return el("figure", {}, this.large, el("figcaption", {}, el("b", {}, this.cell.label),
      answerWords("answers", this.cell), this.status), this.maps);
  }

  showAll() {
    const alt = `visual tokens kept by ${this.cell.label}`;
    this.large.replaceChildren(seenPicture(this.picture, alt, this.cell.positions, this.grid, this.cell.color));
    this.status.textContent = this.cell.description;
  }

  weightsOf(at) {
    const count = this.grid[0] * this.grid[1];
    return this.weights.subarray(at * count, (at + 1) * count);
  }

  heatMap(position, at) {
    const frame = seenPicture(this.picture, "", [position], this.grid, "own");
    frame.querySelector(".cover").remove();
    frame.querySelector("img").after(heatCanvas(this.weightsOf(at), this.colors, this.grid));
    return frame;
  }

  map(position, at) {
    const name = `centroid ${at + 1}, row ${Math.floor(position / this.grid[1]) + 1}, `
      + `column ${(position % this.grid[1]) + 1}`;
    const show = () => {
      this.large.replaceChildren(this.heatMap(position, at));
      this.status.textContent = `${name}: gathers from ${this.cell.effective[at]} effective tokens`;
    };
    const restore = () => this.showAll();
    return el("button",
      { type: "button", "aria-label": name, title: name, pointerenter: show, focus: show, blur: restore },
      this.heatMap(position, at), el("span", { class: "number", "aria-hidden": "true" }, String(at + 1)));
  }
}

const colors = bytes(DATA.colors);
const shown = DATA.cells.map((cell) => new Cell(cell, DATA.picture, DATA.grid, colors).element());
for (let at = 0; at < shown.length; at += DATA.columns) {
  document.getElementById("cells").append(wholePicture(), ...shown.slice(at, at + DATA.columns));
}
if (DATA.cells.some((cell) => cell.weights !== null)) document.getElementById("bar").append(colorBar(colors));
document.documentElement.dataset.ready = "true";
