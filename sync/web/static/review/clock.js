// Seconds that a person looks at a card: from its first paint, without the time the page is hidden or covered.

export class Clock {
  constructor() {
    this._sum = 0;
    this._since = null;
    this._covered = false;
    document.addEventListener("visibilitychange", () => this._update());
  }

  /** A card was painted at `time` (of performance.now). */
  start(time) {
    this._sum = 0;
    this._since = time;
    this._runs = true;
    this._update();
  }

  stop() {
    this._runs = false;
    this._update();
  }

  /** A dialog covers the card, or no longer does. */
  cover(isCovered) {
    this._covered = isCovered;
    this._update();
  }

  seconds() {
    const open = this._since === null ? 0 : performance.now() - this._since;
    return Math.round(Math.max(0, this._sum + open)) / 1000;
  }

  _update() {
    const goes = this._runs && !this._covered && !document.hidden;
    if (goes && this._since === null) this._since = performance.now();
    if (!goes && this._since !== null) {
      this._sum += performance.now() - this._since;
      this._since = null;
    }
  }
}
