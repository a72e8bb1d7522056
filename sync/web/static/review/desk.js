// The desk: one stream of cards in front of one person. Shows, answers, takes back.

import * as api from "./api.js";
import { AnswerBar } from "./answer_bar.js";
import { inWords, prepare, thumb } from "./card.js";
import { Clock } from "./clock.js";
import { Deck } from "./deck.js";
import { History } from "./history.js";
import { at, make, painted, plural } from "./make.js";
import { orderOf } from "./orders.js";
import { examplesOf, recentList } from "./side.js";
import { fitTiles } from "./tiles.js";

const TURN_MS = 1800; // how long the notice of a new label stays
const GUARD_MS = 300; // a key that was meant for the label before comes within this time

export class Desk {
  /** `parts` holds what all streams share: person, stream, outbox, auto, settings, say(text, isToast), gone(error), centre(). */
  constructor(parts) {
    Object.assign(this, parts);
    this.card = null; // on screen
    this._paintedAt = null; // when it was painted; null: not yet, so keys mean nothing
    this._before = null;
    this._label = null;
    this._examples = "";
    this._isBusy = false;
    this._isResting = false; // keys mean nothing for a moment: they may have been meant for the card before
    this._counts = { answered: 0, left: 0 };
    this._clock = new Clock();
    this._history = new History(this.person.id, this.stream.id);
    this._bar = new AnswerBar(at("answers"), (answer) => this.answer(answer));
    const busy = () => [...(this.card ? [this.card.id] : []), ...this.outbox.cards()];
    this._deck = new Deck(this.stream.id, orderOf(this.stream), busy, () => this.shown, {
      ready: () => this.card || this._next(),
      counts: (reply) => this._count(reply),
      failed: (error) => {
        if (error instanceof api.Gone) this.gone(error);
        else if (!this.card) this._wait(error.message);
      },
      empty: () => this.card || this._nothing(),
      lost: (ids) => this.lost(ids),
      held: (count, isAsking) => {
        at("stage").dataset.ahead = String(count);
        at("stage").toggleAttribute("data-asking", isAsking);
      },
    });
    this._showHistory();
    this._wait("");
    this._deck.fill();
  }

  /** The last answers, oldest first. */
  get recent() {
    return this._history.entries;
  }

  /** Id of the card on the screen, "" for none. */
  get shown() {
    return this.card?.id ?? "";
  }

  leave(isClosed) {
    this._deck.leave(isClosed);
  }

  comeBack() {
    this._deck.comeBack();
  }

  /** Somebody else has these cards by now: the one on the screen makes way for the next. */
  lost(ids) {
    this._deck.drop(ids);
    if (!this.card || !ids.includes(this.card.id) || this._isBusy) return;
    this._clock.stop();
    this._next({ isSwapped: true });
    this.say("That card went to somebody else.", true);
  }

  /** `isGoingOn`: the stream is opened anew. */
  close(isGoingOn = false) {
    this._deck.close(isGoingOn);
    this.auto.stop();
    this._clock.stop();
    this._bar.clear();
  }

  cover(isCovered) {
    this._clock.cover(isCovered);
    this.auto.cover(isCovered);
  }

  /** Whether the key meant an answer. */
  press(key, event) {
    return this._bar.press(key, event);
  }

  /** Give the card on screen this answer and show the next one. */
  answer(answer, isAuto = false) {
    if (!this.card || this._paintedAt === null || this._isBusy || this._isResting) return;
    const card = this.card;
    const sent = { uuid: crypto.randomUUID?.() ?? uuid4(), card: card.id, ...answer, seconds: this._clock.seconds() };
    if (isAuto) sent.auto = true;
    else this.auto.person();
    this._clock.stop();
    this.auto.stop();
    this._deck.answered(card.id);
    this._history.add({ uuid: sent.uuid, id: card.id, answer, thumb: thumb(card.data) }, card);
    this.outbox.put(sent);
    this._next();
    painted().then(() => {
      this._showHistory();
      this._count();
    });
  }

  /** Auto mode's answer to the card on screen. */
  automatic() {
    const answer = this._bar.automatic(this.settings.auto_answer);
    if (answer) this.answer(answer, true);
  }

  /** Auto mode was switched, or its speed was changed. */
  autoChanged() {
    if (this._paintedAt !== null) this.auto.start(this._bar.automatic(this.settings.auto_answer) !== null);
  }

  /** Take back one of the last ten answers, the newest unless one is given. */
  async takeBack(entry = this._history.last()) {
    if (!entry || this._isBusy) return;
    this._isBusy = true;
    this.auto.stop();
    try {
      let card = this._history.cardOf(entry);
      let before = entry.answer;
      if (!(await this.outbox.cancel(entry.uuid))) {
        const reply = await api.undo(entry.id);
        before = reply.before ?? before;
        card = prepare(reply.card);
        this._count(reply);
      }
      this._history.remove(entry);
      await card.loading;
      if (this.card) this._deck.putBack(this.card);
      this._deck.open(card.id);
      this._show(card, before);
      this.say(`Taken back. You had said: ${inWords(before)}.`, true);
    } catch (error) {
      if (error instanceof api.Gone) this.gone(error);
      else if (error instanceof api.Refused) {
        this._history.remove(entry);
        this.say(`This answer cannot be taken back: ${error.message} ${error.hint}`, true);
      } else this.say(`Not taken back yet: ${error.message} Try again when the connection is there.`, true);
      this.autoChanged();
    } finally {
      this._isBusy = false;
      this._showHistory();
    }
  }

  /** The server's reply to answers. */
  sent(reply) {
    this._count(reply);
    if (reply.lost?.length) this.lost(reply.lost);
    for (const { uuid, right } of reply.feedback ?? []) {
      this._history.feedback(uuid, right);
      this.say(right ? "✓ Right. The answer to that one was known." : "✗ Not right: the answer to that one was known. Look at the examples again.", true);
    }
    if (reply.feedback?.length) this._showHistory();
  }

  /** The server did not take these answers. */
  refused(list) {
    for (const { uuid, error, hint } of list) {
      const entry = this._history.find(uuid);
      if (entry) {
        this._deck.open(entry.id);
        this._history.remove(entry);
      }
      this.say(`An answer was not taken: ${error} ${hint ?? ""}`, true);
    }
    this._showHistory();
  }

  _next({ isSwapped = false } = {}) {
    this._before = null;
    const card = this._deck.take();
    if (card) this._show(card, null, isSwapped);
    else if (this._deck.isEmpty && !this._deck.size) this._nothing();
    else this._wait(this.outbox.lost);
    this._deck.fill();
  }

  _show(card, before = null, isSwapped = false) {
    this.card = card;
    this._paintedAt = null;
    const label = card.form === "class" ? "" : card.label;
    this._turned = this._label !== null && label !== this._label;
    this._rest(this._turned || isSwapped);
    this._label = label;
    document.body.dataset.form = card.form;
    card.element.classList.remove("swapped");
    this.centre();
    at("stage").replaceChildren(card.element, ...(this._turned && label ? [turn(label)] : []));
    this._bar.show(card, before);
    this._showExamples(card.data);
    fitTiles();
    painted().then((time) => {
      if (this.card !== card) return;
      this._paintedAt = time;
      this._clock.start(time);
      this.autoChanged();
      at("stage").dataset.card = card.id; // the card that a person now sees
      if (this._isResting) setTimeout(() => this.card === card && this._rest(false), GUARD_MS);
      if (!this.outbox.size) this._deck.fill({ isCalled: true }); // else the answer on its way tells what is shown
    });
    if (this._turned && label) this.say(`Now: ${label}.`);
  }

  /** While keys rest, the buttons look it. */
  _rest(isResting) {
    this._isResting = isResting;
    at("stage").toggleAttribute("data-resting", isResting);
    at("bottom").classList.toggle("resting", isResting);
  }

  _showExamples(data) {
    const made = JSON.stringify(data.examples ?? null);
    if (made === this._examples) return;
    this._examples = made;
    at("examples").replaceChildren(...examplesOf(data));
  }

  _showHistory() {
    at("undo").disabled = !this._history.size;
    at("recent").replaceChildren(...recentList(this._history.entries, (entry) => this.takeBack(entry)));
  }

  _wait(reason) {
    this._message(reason ? "Waiting for the next card" : "Loading…", reason ? `${reason} The page goes on by itself.` : "");
  }

  _nothing() {
    const n = this._counts.answered + this.outbox.size;
    this._message(n ? "All answered. Thank you!" : "Nothing to answer now", "When there are new questions, they appear here by themselves.");
  }

  _message(title, text) {
    this.card = null;
    this._paintedAt = null;
    this.auto.stop();
    this._bar.clear();
    this._rest(false);
    document.body.dataset.form = "message";
    delete at("stage").dataset.card;
    at("stage").replaceChildren(make("div", { class: "message" }, make("h2", { text: title }), make("p", { text })));
  }

  _count(reply = {}) {
    if (reply.answered !== undefined) this._counts = { answered: reply.answered, left: reply.left ?? this._counts.left };
    const waiting = this.outbox.size;
    const answered = this._counts.answered + waiting;
    const left = Math.max(0, this._counts.left - waiting);
    at("counts").textContent = `${answered.toLocaleString("en")} answered · ${left.toLocaleString("en")} left`;
    const bar = at("progress");
    bar.setAttribute("aria-valuemax", String(Math.max(1, answered + left)));
    bar.setAttribute("aria-valuenow", String(answered));
    bar.setAttribute("aria-valuetext", `${plural(answered, "card")} answered, ${left} left`);
    at("done").style.width = `${(100 * answered) / Math.max(1, answered + left)}%`;
    if (answered && answered % 25 === 0) this.say(`${plural(answered, "card")} answered, ${left} left.`);
  }
}

function turn(label) {
  const notice = make("div", { class: "turn", "aria-hidden": "true" }, "Now: ", make("b", { text: label }));
  setTimeout(() => notice.remove(), TURN_MS);
  return notice;
}

/** Random uuid where the browser offers none (pages without https). */
function uuid4() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
