// Brightness, contrast and zoom of the pictures: kept on this device, the same for all cards.

import { make } from "./make.js";

const KEY = "groundswell-look";
const KNOBS = {
  brightness: { name: "Brightness", key: "b", min: 0.4, max: 2.5, step: 0.1 },
  contrast: { name: "Contrast", key: "c", min: 0.4, max: 3, step: 0.1 },
  zoom: { name: "Zoom", key: "z", min: 1, max: 6, step: 0.25 },
};

export class Look {
  constructor(onChange) {
    this._onChange = onChange;
    this._values = { brightness: 1, contrast: 1, zoom: 1 };
    try {
      const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
      for (const [name, knob] of Object.entries(KNOBS))
        if (kept[name] >= knob.min && kept[name] <= knob.max) this._values[name] = kept[name];
    } catch {
      // nothing kept, or not by us: the pictures are shown as they are
    }
    this._inputs = {};
    this._apply();
  }

  get zoom() {
    return this._values.zoom;
  }

  /** b, c, z: more; with shift: less; r: as they are. Whether the key was one of these. */
  press(key, isLess) {
    if (key === "r") {
      for (const name of Object.keys(KNOBS)) this.set(name, 1);
      this._onChange("Pictures as they are.");
      return true;
    }
    const found = Object.entries(KNOBS).find(([, knob]) => knob.key === key);
    if (!found) return false;
    const [name, knob] = found;
    this.set(name, this._values[name] + (isLess ? -knob.step : knob.step));
    this._onChange(`${knob.name} ${Math.round(100 * this._values[name])} %`);
    return true;
  }

  set(name, value) {
    const { min, max } = KNOBS[name];
    this._values[name] = Math.round(100 * Math.min(max, Math.max(min, value))) / 100;
    this._apply();
    try {
      localStorage.setItem(KEY, JSON.stringify(this._values));
    } catch {
      // a private window: it holds until the page is closed
    }
  }

  /** Sliders and a reset button, for the panel. */
  panel() {
    const sliders = Object.entries(KNOBS).map(([name, knob]) => {
      const output = make("output");
      const input = make("input", { type: "range", min: knob.min, max: knob.max, step: knob.step, input: () => this.set(name, Number(input.value)) });
      this._inputs[name] = { input, output };
      return make("label", { class: "slider" }, make("span", {}, knob.name + " ", make("kbd", { text: knob.key })), input, output);
    });
    this._apply();
    const reset = make("button", { type: "button", click: () => this.press("r", false) }, "As they are ", make("kbd", { text: "r" }));
    return [...sliders, reset];
  }

  _apply() {
    for (const [name, value] of Object.entries(this._values)) {
      document.documentElement.style.setProperty(`--${name}`, String(value));
      const shown = this._inputs[name];
      if (!shown) continue;
      shown.input.value = String(value);
      shown.output.textContent = `${Math.round(100 * value)} %`;
    }
    const isPlain = this._values.brightness === 1 && this._values.contrast === 1;
    document.documentElement.classList.toggle("plain", isPlain); // no filter layer while none is wanted
    document.documentElement.classList.toggle("zoomed", this._values.zoom > 1);
    if (this._values.zoom === 1) pan(0, 0);
  }
}

/** Shift what a zoomed picture shows, in pixels of the screen. */
export function pan(x, y) {
  document.documentElement.style.setProperty("--pan-x", `${x}px`);
  document.documentElement.style.setProperty("--pan-y", `${y}px`);
}
