// The buttons of a card and the keys that press them.

import { make } from "./make.js";

const FOUR = [
  { value: "no", name: "No", mark: "✗", key: "n", arrow: "←" },
  { value: "unsure", name: "Unsure", mark: "?", key: "u", arrow: "↑" },
  { value: "skip", name: "Skip", mark: "»", key: "s", arrow: "↓" },
  { value: "yes", name: "Yes", mark: "✓", key: "y", arrow: "→" },
];
const ARROWS = { ArrowLeft: "no", ArrowUp: "unsure", ArrowDown: "skip", ArrowRight: "yes" };
const RESERVED = "uszxbcrth? ";

/** One key per choice: the one the server asked for where it is free, then 1–9, then letters. */
export function assignKeys(choices) {
  const used = new Set(RESERVED);
  const wanted = choices.map(({ key }) => {
    const one = (key || "").toLowerCase();
    if (one.length !== 1 || used.has(one)) return "";
    used.add(one);
    return one;
  });
  const free = [..."123456789aefgijklmnopqvwyd0"].filter((key) => !used.has(key));
  return wanted.map((key) => key || free.shift() || "");
}

/** Buttons below the card. `onAnswer` gets {value} | {wrong} | {choices}. */
export class AnswerBar {
  constructor(root, onAnswer) {
    this._root = root;
    this._onAnswer = onAnswer;
    this._made = "";
    this._keys = new Map();
    this._card = null;
  }

  clear() {
    this._card = null;
    this._made = "";
    this._keys.clear();
    this._root.replaceChildren();
  }

  /** Buttons of this card; `before` is what was answered, when it was taken back. */
  show(card, before = null) {
    this._card = card;
    if (card.form === "single") this._single();
    else if (card.form === "sheet") this._sheet(before?.wrong ?? []);
    else this._class(before?.choices ?? null);
    for (const button of this._root.querySelectorAll("button[data-value]"))
      button.classList.toggle("before", before !== null && button.dataset.value === before.value);
  }

  /** Whether the key meant an answer here. */
  press(key, event) {
    if (!this._card) return false;
    const arrow = this._card.form === "single" ? ARROWS[key] : undefined;
    const name = arrow ? `value:${arrow}` : key.length === 1 ? key.toLowerCase() : key;
    const button = this._keys.get(name);
    if (!button) return false;
    if (event.shiftKey && this._card.form === "sheet") return false;
    button.click();
    button.classList.remove("flash");
    void button.offsetWidth; // the flash starts anew
    button.classList.add("flash");
    return true;
  }

  /** What auto mode would answer: null when it must wait for the person. */
  automatic(autoAnswer) {
    const card = this._card;
    if (!card) return null;
    if (card.form === "single") return { value: autoAnswer };
    if (card.form === "class" && card.data.suggested?.length) return { choices: [...card.data.suggested] };
    return null;
  }

  _button(value, name, mark, key, arrow = "") {
    const button = make("button", { type: "button", class: `answer ${value}`, "data-value": value, click: () => this._answer({ value }) }, make("span", { class: "mark", "aria-hidden": "true", text: mark }), make("span", { text: name }), make("kbd", { text: arrow ? `${key} ${arrow}` : key }));
    this._keys.set(key, button);
    this._keys.set(`value:${value}`, button);
    return button;
  }

  _answer(answer) {
    if (this._card) this._onAnswer(answer);
  }

  _renew(made) {
    if (this._made === made) return false;
    this._made = made;
    this._keys.clear();
    return true;
  }

  _single() {
    if (!this._renew("single")) return;
    this._root.className = "four";
    this._root.replaceChildren(...FOUR.map((one) => this._button(one.value, one.name, one.mark, one.key, one.arrow)));
  }

  // sheets: tiles are ticked, one button sends

  _sheet(wrong) {
    this._renew("");
    this._root.className = "two";
    const count = make("span");
    const send = make("button", { type: "button", class: "answer send", click: () => this._answer({ wrong: this._ticked() }) }, make("span", { class: "mark", "aria-hidden": "true", text: "✓" }), count, make("kbd", { text: "enter" }));
    const update = () => {
      const n = this._ticked().length;
      count.textContent = n ? `Send: ${n} wrong, ${this._card.tiles.length - n} good` : "Send: all are good";
    };
    this._root.replaceChildren(this._button("skip", "Skip", "»", "s"), send);
    this._keys.set("Enter", send);
    this._card.tiles.forEach((tile, i) => {
      if (i < 10) this._keys.set(String((i + 1) % 10), tile);
      tile.setAttribute("aria-pressed", String(wrong.includes(i)));
      tile.onclick = () => {
        tile.setAttribute("aria-pressed", String(tile.getAttribute("aria-pressed") !== "true"));
        update();
      };
    });
    update();
  }

  _ticked() {
    return this._card.tiles.flatMap((tile, i) => (tile.getAttribute("aria-pressed") === "true" ? [i] : []));
  }

  // classes: one key per class

  _class(before) {
    const { choices, exclusive, suggested = [] } = this._card.data;
    const made = JSON.stringify([choices, exclusive]);
    if (this._renew(made)) this._makeClass(choices, exclusive);
    const chosen = before ?? []; // what the model says is marked, not ticked: a person decides
    for (const button of this._root.querySelectorAll("button.choice")) {
      const isSuggested = suggested.includes(button.dataset.choice);
      button.classList.toggle("suggested", isSuggested);
      button.querySelector(".model").textContent = isSuggested ? "model" : "";
      button.classList.toggle("before", before !== null && before.includes(button.dataset.choice));
      if (!exclusive) button.setAttribute("aria-pressed", String(chosen.includes(button.dataset.choice)));
    }
  }

  _makeClass(choices, exclusive) {
    const keys = assignKeys(choices);
    this._root.className = "classes";
    const chosen = () => [...this._root.querySelectorAll("button.choice[aria-pressed=true]")].map((one) => one.dataset.choice);
    const buttons = choices.map(({ value }, i) => {
      const press = (event) => {
        if (exclusive) this._answer({ choices: [value] });
        else event.currentTarget.setAttribute("aria-pressed", String(event.currentTarget.getAttribute("aria-pressed") !== "true"));
      };
      const button = make("button", { type: "button", class: "answer choice", "data-choice": value, click: press }, make("span", { class: "mark", "aria-hidden": "true" }), make("span", { class: "name", text: value }), make("span", { class: "model" }), ...(keys[i] ? [make("kbd", { text: keys[i] })] : []));
      if (keys[i]) this._keys.set(keys[i], button);
      return button;
    });
    const rest = [this._button("unsure", "Unsure", "?", "u"), this._button("skip", "Skip", "»", "s")];
    if (!exclusive) {
      const send = make("button", { type: "button", class: "answer send", click: () => this._answer({ choices: chosen() }) }, make("span", { class: "mark", "aria-hidden": "true", text: "✓" }), make("span", { text: "Send" }), make("kbd", { text: "enter" }));
      this._keys.set("Enter", send);
      rest.push(send);
    }
    this._root.replaceChildren(make("div", { class: "choices", role: "group", "aria-label": "Classes" }, ...buttons), make("div", { class: "rest" }, ...rest));
  }
}
