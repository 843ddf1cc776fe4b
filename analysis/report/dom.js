"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
// Codes that replace the index of a choice; payload.py has the same ones.
const UNREADABLE = 255, SKIPPED = 254, NOT_EVALUATED = 253;

/** Makes an element. Strings become text nodes, so data is never interpreted as markup. */
function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function bytes(base64) {
  const text = atob(base64);
  const array = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) array[i] = text.charCodeAt(i);
  return array;
}

/** The index of the choice, or a code, for each question of the data set. Decoded on first use. */
function predictions(row) {
  row.decoded = row.decoded || bytes(row.predictions);
  return row.decoded;
}

function isCorrect(row, question) {
  row.bits = row.bits || bytes(row.correct);
  return (row.bits[question >> 3] >> (question & 7)) % 2 === 1;
}

function answered(row, question) {
  const choice = predictions(row)[question];
  return choice !== SKIPPED && choice !== NOT_EVALUATED;
}

/** What a row answered: a choice's letter, or of free text whether it was right. */
function answerOf(set, row, question) {
  const choice = predictions(row)[question];
  if (choice !== UNREADABLE || (set.choices[question] || []).length) return letter(choice);
  return isCorrect(row, question) ? "right, in words" : "wrong, in words";
}

function letter(choice) {
  if (choice === UNREADABLE) return "no readable answer";
  if (choice === SKIPPED) return "skipped";
  if (choice === NOT_EVALUATED) return "not evaluated";
  return LETTERS[choice];
}

const isComplete = (row) => row.status === "complete";

function percent(share) {
  return (100 * share).toFixed(1) + "%";
}

function signed(points) {
  return (points < 0 ? "\u2212" : "+") + Math.abs(points).toFixed(1);
}

function probability(p) {
  return p < 0.001 ? "p < 0.001" : "p = " + p.toFixed(3);
}

/** Shows the tip beside a point of the page. lines: the first one is its heading. */
function showTip(x, y, lines) {
  const tip = document.getElementById("tip");
  tip.replaceChildren(el("b", {}, lines[0]), ...lines.slice(1).map((line) => el("div", {}, line)));
  tip.hidden = false;
  const width = document.documentElement.clientWidth;
  const left = Math.max(8, Math.min(x + 14, width - tip.offsetWidth - 8));
  tip.style.left = left + window.scrollX + "px";
  tip.style.top = Math.max(8, y - tip.offsetHeight - 12) + window.scrollY + "px";
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}
