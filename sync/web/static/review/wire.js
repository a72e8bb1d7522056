// The line that says when answers cannot be sent, how many wait, and lets a person try at once.

import { at, make, plural } from "./make.js";

export class Wire {
  constructor(tryNow) {
    this._line = at("wire");
    this._text = make("span");
    this._line.append(this._text, " ", make("button", { type: "button", text: "Try now", click: tryNow }));
    this._shown = "";
  }

  show(outbox) {
    const isAway = Boolean(outbox.lost);
    const isLoose = !outbox.isKept && outbox.size > 0;
    if (!isAway && !isLoose) {
      if (this._shown) this._text.textContent = "";
      this._shown = "";
      this._line.hidden = true;
      return;
    }
    const keeps = outbox.isKept ? "They are kept on this device; you can go on." : "This browser keeps nothing: leave the page open until they are sent.";
    this._shown = `${outbox.lost || "Sending."} ${plural(outbox.size, "answer waits", "answers wait")} to be sent. ${keeps}`;
    this._line.hidden = false;
    if (this._text.textContent !== this._shown) this._text.textContent = this._shown; // read aloud once, not every second
  }
}
