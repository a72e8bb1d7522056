"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http" + "://www.w3.org/2000/svg";
  const number = new Intl.NumberFormat("en");
  const CROWDED = 12;
  const steps = 100;
  const threshold = data.labels.map(() => Math.round(data.shown_from * steps));

  function make(name, options = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(options)) {
      if (key === "text") node.textContent = value;
      else if (key === "class") node.className = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  function drawing(name, attributes) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  const colour = (label) => `hsl(${Math.round(200 + label * 137.508) % 360} 85% 55%)`;
  const percent = (share) => `${Math.round(100 * share)} %`;

  function range(three, say = (value) => number.format(value)) {
    const [middle, low, high] = three;
    return low === high ? [say(middle), ""] : [say(middle), `${say(low)} to ${say(high)}`];
  }

  // one row per label, and one that moves them all

  const rows = [];

  function share(curve, which, at) {
    if (!curve || curve.too_few) return ["too few to tell", curve ? `${curve.pictures} of ${data.tests.fewest} test pictures` : "no test pictures yet"];
    const [middle, low, high] = curve[which].map((column) => column[at]);
    if (which === "recall" && !curve.objects) return ["none to find", "on the test pictures"];
    if (middle === null) return ["nothing kept", "on the test pictures"];
    return [percent(middle), `${percent(low)} to ${percent(high)}`];
  }

  function tell(row) {
    const all = row.label === null;
    const same = threshold.every((value) => value === threshold[0]);
    const at = all ? threshold[0] : threshold[row.label];
    const names = all ? data.labels.map((label) => label.name) : [data.labels[row.label].name];
    const kept = names.reduce((sum, name, i) => sum + data.counts[name][all ? threshold[i] : at], 0);
    const whole = names.reduce((sum, name) => sum + data.counts[name][0], 0);
    if (!all || same) row.input.value = at;
    row.output.textContent = all && !same ? "mixed" : (at / steps).toFixed(2);
    const only = data.labels.length === 1;
    const curve = data.tests.curves[all || only ? "" : names[0]];
    const cells = [["kept", number.format(kept), `of ${number.format(whole)}`]];
    if (all && !same) cells.push(["", "the labels differ", ""]);
    else {
      cells.push(["precision", ...share(curve, "precision", at)]);
      cells.push(["recall", ...share(curve, "recall", at)]);
    }
    row.told.replaceChildren(...cells.map(([name, text, small]) =>
      make("span", { class: name }, make("small", { text: name }), `${text} `, make("small", { text: small }))));
  }

  function addRow(label) {
    const all = label === null;
    const name = all ? "All labels" : data.labels[label].name;
    const input = make("input", { type: "range", min: 0, max: steps, step: 1, "aria-label": `Smallest score of ${name}` });
    const output = make("output");
    const told = make("div", { class: "told" });
    const title = make("b", { text: name });
    if (!all) {
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = colour(label);
      title.prepend(swatch);
    }
    input.addEventListener("input", () => {
      if (all) threshold.fill(Number(input.value));
      else threshold[label] = Number(input.value);
      update();
    });
    const box = make("div", { class: "slider" }, title, input, output, told);
    box.dataset.label = all ? "" : name;
    document.getElementById("sliders").append(box);
    rows.push({ label, input, output, told });
  }

  // pictures

  const shots = [];

  function corner(path) {
    const numbers = path.match(/-?[\d.]+/g).map(Number);
    let x = Infinity, y = Infinity;
    for (let i = 0; i < numbers.length; i += 2) { x = Math.min(x, numbers[i]); y = Math.min(y, numbers[i + 1]); }
    return [x, y];
  }

  function addShot(picture) {
    const frame = make("div", { class: "frame" });
    const said = make("span", { class: "said", "aria-live": "polite" });
    const count = make("span");
    const caption = make("figcaption", {}, make("span", { text: `task ${picture.task}` }), count);
    const drawn = [];
    const svg = drawing("svg", { viewBox: `0 0 ${picture.width} ${picture.height}`, "aria-hidden": "true" });
    if (picture.jpeg) frame.append(make("img", { src: picture.jpeg, width: picture.width, height: picture.height, alt: `task ${picture.task}` }));
    else frame.append(make("div", { class: "gone", text: "this picture cannot be read" }));
    const texts = [];
    for (const [label, score, path] of picture.drawn) {
      const text = `${data.labels[label].name} ${score.toFixed(2)}`;
      if (!path) {
        const chip = make("span", { class: "chip", text });
        chip.style.borderColor = colour(label);
        caption.append(chip);
        drawn.push({ label, score, nodes: [chip] });
        continue;
      }
      const shape = drawing("path", { d: path, fill: colour(label), stroke: colour(label) });
      const [x, y] = corner(path);
      const tag = drawing("text", { x: Math.max(2, x), y: Math.max(15, y - 4) });
      tag.textContent = text;
      shape.addEventListener("click", () => {
        svg.querySelectorAll(".picked").forEach((one) => one.classList.remove("picked"));
        shape.classList.add("picked");
        said.textContent = text;
      });
      svg.append(shape);
      texts.push(tag);
      drawn.push({ label, score, nodes: [shape, tag] });
    }
    svg.append(...texts);
    frame.append(svg);
    if (picture.for_label) caption.append(make("span", { text: `added for “${picture.for_label}”` }));
    caption.append(said);
    document.getElementById("sheet").append(make("figure", {}, frame, caption));
    shots.push({ svg, drawn, count });
  }

  function update() {
    rows.forEach(tell);
    for (const shot of shots) {
      let visible = 0;
      for (const one of shot.drawn) {
        const on = Math.round(one.score * 1000) >= threshold[one.label] * 10;
        visible += on;
        for (const node of one.nodes) {
          if (on) node.removeAttribute("hidden"); else node.setAttribute("hidden", "");
        }
      }
      shot.svg.classList.toggle("crowded", visible > CROWDED);
      shot.count.textContent = `${visible} of ${shot.drawn.length} kept`;
    }
    document.getElementById("wish").textContent = (Math.min(...threshold) / steps).toFixed(2);
  }

  // price

  function cell(name, [text, small]) {
    const td = make("td", {}, make("span", {}, text, make("small", { text: small })));
    td.dataset.name = name;
    return td;
  }

  function addPrice() {
    const price = data.price, place = document.getElementById("price");
    place.append(make("p", { text: "A certificate promises that, of the predictions accepted without anybody looking at them, at least this share is good. People answer “is this mask good?” until the promise can be tested, and then look at the rest one by one while that is quicker than drawing. The review was played on this pool, with the truth drawn from what is known of the model; the smaller numbers are the limits that the real review should keep in 9 of 10 cases." }));
    const names = ["promise", "questions", "minutes of answers", "accepted unseen", "good after a look", "hours of drawing left"];
    const head = make("thead", {}, make("tr", {}, ...names.map((text) => make("th", { text, scope: "col" }))));
    const body = make("tbody");
    for (const row of price.rows) {
      const hours = row.hours_of_drawing ? range(row.hours_of_drawing) : ["too few to tell", `${price.test_pictures} of ${data.tests.fewest} test pictures`];
      const promise = row.promise === null ? ["none", `policy ${price.policy}`] : [`${Math.round(100 * row.promise)} % good`, row.promise === price.now ? "set now" : ""];
      body.append(make("tr", { class: row.promise === price.now ? "now" : "" },
        cell(names[0], promise), cell(names[1], range(row.questions)), cell(names[2], range(row.minutes)),
        cell(names[3], range(row.unseen)), cell(names[4], range(row.verified)), cell(names[5], hours)));
    }
    place.append(make("table", {}, head, body));
    const notes = [];
    if (price.answered) notes.push(`${number.format(price.answered)} masks of this round have an answer already; only what is left is counted.`);
    if (price.played_masks < price.masks) notes.push(`Played on a random sample of ${number.format(price.played_masks)} of ${number.format(price.masks)} masks, scaled up.`);
    for (const row of price.rows) {
      if (row.nothing > 0 && row.nothing < row.plays) {
        notes.push(`At ${Math.round(100 * row.promise)} % good, nothing was accepted unseen in ${row.nothing} of ${row.plays} plays, which stand for equal chances. Then people look at nearly every mask that may be good: about ${number.format(row.questions_then)} questions.`);
      }
    }
    if (price.rows.every((row) => row.unseen[0] === 0)) notes.push("Most likely nothing will be accepted unseen here: too few of the masks are good, or there are so few masks that looking at all of them is quicker than a test.");
    if (price.missed) notes.push(`Drawing left: good masks that nobody accepts, and about ${number.format(price.missed.objects[0])} objects (${number.format(price.missed.objects[1])} to ${number.format(price.missed.objects[2])}) that the model misses: on ${price.missed.pictures} test pictures it missed ${number.format(price.missed.of_test_objects[0])} of ${number.format(price.missed.of_test_objects[1])}. Each takes ${price.drawn_s} seconds to draw.`);
    if (price.test_pictures < 20) notes.push(`Only ${price.test_pictures} test pictures tell how good the model is. The forecast can be far off: a certificate that is expected may not pass, and then nearly every mask is looked at.`);
    if (price.budget !== null) notes.push(`The project's budget is ${number.format(price.budget)} questions a round (question_budget); this forecast does not stop there.`);
    notes.push("Minutes assume 1.4 s for a single question, 1.5 s for a sheet and 0.4 s for each mask on it, unless the project says otherwise; gold questions and second opinions of a crowd come on top.");
    place.append(make("ul", { class: "notes" }, ...notes.map((text) => make("li", { text }))));
  }

  if (data.labels.length > 1) addRow(null);
  data.labels.forEach((_, i) => addRow(i));
  data.pictures.forEach(addShot);
  if (!data.pictures.length) document.getElementById("sheet").append(make("p", { text: "No picture is unfinished." }));
  addPrice();
  update();
  document.getElementById("outlines").addEventListener("change", (event) => document.body.classList.toggle("plain", !event.target.checked));
})();
