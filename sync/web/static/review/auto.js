// Auto mode: a card that nobody answers in time gets the default answer. A bar shows the time that is left.

import { make, plural } from "./make.js";

const KEY = "groundswell-auto-seconds";
const RUN = 50; // automatic answers in a row, then a person must show that somebody is there
export const RANGE = { min: 0.5, max: 10, step: 0.5 };

export class Auto {
  /** `onDue` answers the card; `onChange` hears when auto mode starts or stops, with a sentence. */
  constructor(bar, onDue, onChange) {
    this._bar = bar;
    this._fill = bar.firstElementChild;
    this._onDue = onDue;
    this._onChange = onChange;
    this._animation = null;
    this._inRow = 0;
    this._covered = false;
    this.isOn = false;
    this.seconds = null;
    this.what = ""; // what it answers, in words
    document.addEventListener("visibilitychange", () => this._update());
  }

  /** What the server allows: null seconds means no auto mode at all. */
  allow(seconds) {
    if (seconds === null || seconds === undefined) return;
    const kept = Number(localStorage.getItem(KEY));
    this.seconds = kept >= RANGE.min && kept <= RANGE.max ? kept : Math.min(RANGE.max, Math.max(RANGE.min, seconds));
  }

  toggle() {
    if (this.seconds === null) return;
    this.isOn = !this.isOn;
    this._inRow = 0;
    this._bar.hidden = !this.isOn;
    this._onChange(this.isOn ? `Auto mode: ${this.what} after ${this.seconds} s. Space stops it.` : "Auto mode is off.");
  }

  setSeconds(seconds) {
    this.seconds = Math.min(RANGE.max, Math.max(RANGE.min, seconds));
    try {
      localStorage.setItem(KEY, String(this.seconds));
    } catch {
      this._onChange("This browser does not keep settings: the speed holds until the page is closed.");
    }
  }

  /** The time of a card begins; `isDue` false: this card has no default answer. */
  start(isDue) {
    this.stop();
    this._bar.classList.toggle("waits", !isDue);
    if (!this.isOn || !isDue) return;
    this._animation = this._fill.animate([{ transform: "scaleX(1)" }, { transform: "scaleX(0)" }], { duration: 1000 * this.seconds, fill: "forwards" });
    this._animation.onfinish = () => this._due();
    this._update();
  }

  stop() {
    if (!this._animation) return;
    this._animation.onfinish = null;
    this._animation.cancel();
    this._animation = null;
  }

  /** A person answered: somebody is there. */
  person() {
    this._inRow = 0;
  }

  cover(isCovered) {
    this._covered = isCovered;
    this._update();
  }

  _due() {
    this._animation = null;
    this._inRow += 1;
    if (this._inRow > RUN) {
      this.toggle();
      this._onChange(`${plural(RUN, "automatic answer")} in a row: auto mode stopped. Space goes on.`);
      return;
    }
    this._onDue();
  }

  _update() {
    if (!this._animation) return;
    if (document.hidden || this._covered) this._animation.pause();
    else if (this._animation.playState === "paused") this._animation.play();
  }

  /** Slider for the panel. */
  slider(onInput) {
    const shown = make("output", { text: `${this.seconds} s` });
    const input = make("input", { type: "range", min: RANGE.min, max: RANGE.max, step: RANGE.step, value: this.seconds, input: () => {
      this.setSeconds(Number(input.value));
      shown.textContent = `${this.seconds} s`;
      onInput();
    } });
    return make("label", { class: "slider" }, make("span", { text: `Auto mode: ${this.what} after` }), input, shown);
  }
}
