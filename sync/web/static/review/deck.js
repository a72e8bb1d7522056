// The next cards: fetched ahead, their pictures loaded and decoded, so that showing one is a matter of a frame.

import * as api from "./api.js";
import { prepare } from "./card.js";

// cards held, and how few there are when more are fetched: cards held here are kept from others
const FIRST = { size: 4, low: 4 };
const CARDS = { size: 12, low: 8 };
const SHEETS = { size: 3, low: 2 };

export class Deck {
  /** `on` has ready() when the first card of the deck can be shown, counts(reply), failed(error), empty(). */
  constructor(stream, order, busyCards, on) {
    this._stream = stream;
    this._order = order;
    this._busyCards = busyCards; // cards that the server must not give: on screen, or answers still waiting
    this._on = on;
    this._cards = [];
    this._answered = new Set();
    this._form = ""; // of the newest card
    this._fetching = false;
    this._closed = false;
    this._timer = null;
    this.isEmpty = false; // the server had nothing more
  }

  close() {
    this._closed = true;
    clearTimeout(this._timer);
  }

  get size() {
    return this._cards.length;
  }

  /** The next card if it is ready to be shown, else null. */
  take() {
    const ready = this._cards.length && this._cards[0].isReady ? this._cards.shift() : null;
    this.fill();
    return ready;
  }

  /** A card comes back: it is the next one. */
  putBack(card) {
    this._answered.delete(card.id);
    this._cards.unshift(card);
  }

  /** This card was answered: it does not come again, whatever the server thinks. */
  answered(id) {
    this._answered.add(id);
  }

  /** The answer was refused or taken back: the card may come again. */
  open(id) {
    this._answered.delete(id);
  }

  /** The label of the card that comes next, "" when none is there. */
  nextLabel() {
    return this._cards[0]?.label ?? "";
  }

  async fill() {
    const { size, low } = this._wanted();
    if (this._fetching || this._closed || this._cards.length >= low) return;
    clearTimeout(this._timer);
    this._fetching = true;
    let added = 0;
    try {
      const have = [...new Set([...this._cards.map((card) => card.id), ...this._busyCards()])];
      const reply = await api.cards(this._stream, size - this._cards.length, have, this._order);
      if (this._closed) return;
      this._on.counts(reply);
      const known = new Set([...this._cards.map((card) => card.id), ...this._busyCards(), ...this._answered]);
      for (const data of reply.cards) {
        if (known.has(data.id)) continue;
        known.add(data.id);
        this._add(data);
        added += 1;
      }
      this.isEmpty = !this._cards.length && !reply.cards.length;
      if (this.isEmpty) this._on.empty();
      // nothing new now; new questions come with a round, and reserved ones of others may come free
      if (!added) this._later(this._cards.length ? 5 : 10);
    } catch (error) {
      if (this._closed) return;
      this._on.failed(error);
      if (!(error instanceof api.Gone)) this._later(error.after ?? 2);
    } finally {
      this._fetching = false;
    }
    if (added && this._cards.length < this._wanted().low) this._later(0.05);
  }

  _wanted() {
    const form = this._form;
    if (!form) return FIRST;
    return form === "sheet" ? SHEETS : CARDS;
  }

  _later(seconds) {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this.fill(), seconds * 1000);
  }

  async _add(data) {
    const card = prepare(data);
    this._form = card.form;
    this._cards.push(card);
    await card.loading;
    if (!this._closed && this._cards[0] === card) this._on.ready();
  }
}
