// The next cards: fetched ahead, their pictures loaded and decoded, so that showing one is a matter of a frame.
//
// Cards that are held here are kept from others. So the server hears which one is on the screen, gets back what
// nobody looked at when the page is hidden or closed, and may pass on what is only held ahead.

import * as api from "./api.js";
import { prepare } from "./card.js";

// cards held, and how few there are when more are fetched
const FIRST = { size: 4, low: 4 };
const CARDS = { size: 12, low: 8 };
const SHEETS = { size: 3, low: 2 };

export class Deck {
  /**
   * `on` has ready() when the first card of the deck can be shown, counts(reply), failed(error), empty(),
   * lost(ids): of cards that somebody else has by now, and held(count, isAsking): how many can be shown at once, and
   * whether the server is asked now or in a moment.
   */
  constructor(stream, order, busyCards, onScreen, on) {
    this._stream = stream;
    this._order = order;
    this._busyCards = busyCards; // cards that the server must not give: on screen, or answers still waiting
    this._onScreen = onScreen; // id of the card that a person looks at, "" for none
    this._on = on;
    this._cards = [];
    this._answered = new Set();
    this._form = ""; // of the newest card
    this._fetching = false;
    this._wasCalled = false; // while it was fetching
    this._isSoon = false; // it fetches again in a moment
    this._closed = false;
    this._isAway = false; // the cards were given back: none is shown before the server says which are still ours
    this._timer = null;
    this.isEmpty = false; // the server had nothing more
  }

  /** `isGoingOn`: another deck of the same stream takes the cards. */
  close(isGoingOn) {
    this._closed = true;
    clearTimeout(this._timer);
    if (!isGoingOn) this._giveBack();
  }

  get size() {
    return this._cards.length;
  }

  /** The next card if it is ready to be shown, else null. */
  take() {
    const card = !this._isAway && this._cards.length && this._cards[0].isReady ? this._cards.shift() : null;
    this._tell();
    return card;
  }

  /** A card comes back: it is the next one. */
  putBack(card) {
    this._answered.delete(card.id);
    this._cards.unshift(card);
    this._tell();
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

  /** The page is hidden or closed. `withScreen`: closed, so nobody looks at the card on the screen either. */
  leave(withScreen) {
    if (this._closed) return;
    this._isAway = true;
    clearTimeout(this._timer);
    this._isSoon = false;
    this._giveBack(withScreen ? [this._onScreen()] : []);
  }

  /** Somebody looks at the page again. */
  comeBack() {
    this.fill({ isCalled: true });
  }

  /** Cards that somebody else has. */
  drop(ids) {
    const gone = new Set(ids);
    this._cards = this._cards.filter((card) => !gone.has(card.id));
    this._tell();
  }

  /** Fetch more when there are few; `isCalled`: ask in any case, since the server must hear what is on the screen. */
  async fill({ isCalled = false } = {}) {
    const { size, low } = this._wanted();
    if (this._closed || document.hidden) return;
    if (this._fetching) {
      this._wasCalled ||= isCalled;
      return;
    }
    if (!isCalled && this._cards.length >= low) return;
    clearTimeout(this._timer);
    this._fetching = true;
    this._isSoon = false;
    this._tell();
    let added = 0;
    try {
      const have = [...new Set([...this._cards.map((card) => card.id), ...this._busyCards()])];
      const reply = await api.cards(this._stream, Math.max(0, size - this._cards.length), have, this._order, this._onScreen());
      if (this._closed || document.hidden) {
        this._giveBack(reply.cards.map((card) => card.id)); // they came too late
        return;
      }
      this._isAway = false;
      this._on.counts(reply);
      this.drop(reply.lost ?? []);
      if (reply.lost?.length) this._on.lost(reply.lost);
      const known = new Set([...this._cards.map((card) => card.id), ...this._busyCards(), ...this._answered]);
      for (const data of reply.cards) {
        if (known.has(data.id)) continue;
        known.add(data.id);
        this._add(data);
        added += 1;
      }
      this.isEmpty = !this._cards.length && !reply.cards.length;
      if (this.isEmpty) this._on.empty();
      else if (this._cards[0]?.isReady) this._on.ready(); // those that were there before
      // nothing new now; new questions come with a round, and cards of others may come free
      if (!added) this._later(this._cards.length ? 5 : 10);
    } catch (error) {
      if (this._closed) return;
      this._on.failed(error);
      if (!(error instanceof api.Gone)) this._later(error.after ?? 2, isCalled);
    } finally {
      this._fetching = false;
      this._tell();
    }
    if (this._wasCalled) {
      this._wasCalled = false;
      this._later(0.05, true);
    } else if (added && this._cards.length < this._wanted().low) this._later(0.05);
  }

  _tell() {
    if (this._closed) return; // another deck is on the desk
    this._on.held(this._cards.filter((card) => card.isReady).length, this._fetching || this._isSoon);
  }

  _wanted() {
    const form = this._form;
    if (!form) return FIRST;
    return form === "sheet" ? SHEETS : CARDS;
  }

  _later(seconds, isCalled = false) {
    clearTimeout(this._timer);
    this._isSoon = seconds < 1;
    this._timer = setTimeout(() => {
      this._isSoon = false;
      this.fill({ isCalled: isCalled || this._isAway });
      this._tell();
    }, seconds * 1000);
    this._tell();
  }

  _giveBack(more = []) {
    const ids = [...new Set([...this._cards.map((card) => card.id), ...more])].filter((id) => id && !this._answered.has(id));
    if (ids.length) api.giveBack(ids).catch(() => null); // the server keeps them for some minutes then
  }

  async _add(data) {
    const card = prepare(data);
    this._form = card.form;
    this._cards.push(card);
    await card.loading;
    if (this._closed) return;
    this._tell();
    if (this._cards[0] === card) this._on.ready();
  }
}
