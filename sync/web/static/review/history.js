// The last ten answers of a person in a stream. They outlive a reload, so they can still be taken back.

const MOST = 10;

export class History {
  constructor(person, stream) {
    this._key = `groundswell-last:${person}:${stream}`;
    this._cards = new Map(); // uuid -> prepared card, of this page
    this.entries = [];
    try {
      this.entries = JSON.parse(sessionStorage.getItem(this._key) ?? "[]");
    } catch {
      // nothing kept: what is answered from now on can be taken back
    }
  }

  get size() {
    return this.entries.length;
  }

  last() {
    return this.entries.at(-1);
  }

  find(uuid) {
    return this.entries.find((entry) => entry.uuid === uuid);
  }

  cardOf(entry) {
    return this._cards.get(entry.uuid);
  }

  add(entry, card) {
    this.entries.push(entry);
    this._cards.set(entry.uuid, card);
    for (const old of this.entries.splice(0, Math.max(0, this.entries.length - MOST))) this._cards.delete(old.uuid);
    this._keep();
  }

  remove(entry) {
    this.entries = this.entries.filter((one) => one.uuid !== entry.uuid);
    this._cards.delete(entry.uuid);
    this._keep();
  }

  feedback(uuid, right) {
    const entry = this.find(uuid);
    if (!entry) return;
    entry.right = right;
    this._keep();
  }

  _keep() {
    try {
      sessionStorage.setItem(this._key, JSON.stringify(this.entries));
    } catch {
      // a private window: they hold until the page is closed
    }
  }
}
