"use strict";
// Everything that is shown goes through textContent or attributes: no text of a corpus is ever read as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const PAGE = 50;
const player = new Audio();
let playing = null;

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}
const percent = (share) => (share == null ? "–" : (100 * share).toFixed(2));
const option = (value, text, chosen) => el("option", { value, selected: value === chosen }, text);
function choice(label, id, options, chosen, act) {
  const made = el("select", { id, onchange: (event) => act(event.target.value) });
  for (const [value, text] of options) made.append(option(value, text, chosen));
  return el("label", {}, `${label} `, made);
}

const COLUMNS = [
  ["system", (one) => one.key, (one) => el("code", {}, one.key)],
  ["what it is", (one) => one.what, (one) => one.what],
  ["WER %", (one) => one.wer, (one) => percent(one.wer)],
  ["95 % interval", (one) => one.ci95[0], (one) => `[${percent(one.ci95[0])}, ${percent(one.ci95[1])}]`],
  ["normalised %", (one) => one.wer_normalized, (one) => percent(one.wer_normalized)],
  ["CER %", (one) => one.cer, (one) => percent(one.cer)],
  ["MB", (one) => one.bytes, (one) => (one.bytes ? (one.bytes / 1e6).toFixed(2) : "–")],
  ["RTF", (one) => one.rtf, (one) => (one.rtf == null ? "–" : one.rtf.toFixed(3))],
];

function systemsTable(section) {
  let sorted = { column: null, down: false };
  const body = el("tbody");
  const heads = COLUMNS.map(([name], column) =>
    el("th", { scope: "col", "aria-sort": "none" }, el("button", { type: "button", onclick: () => sort(column) }, name)));
  function fill(rows) {
    body.replaceChildren(...rows.map((one) => el("tr", {}, ...COLUMNS.map(([, , show]) => el("td", {}, show(one))))));
  }
  function sort(column) {
    sorted = { column, down: sorted.column === column && !sorted.down };
    const value = COLUMNS[column][1];
    const order = (one, other) => {
      const [x, y] = [value(one), value(other)];
      if (x == null || y == null) return (x == null) - (y == null);
      const less = typeof x === "string" ? x.localeCompare(y) : x - y;
      return sorted.down ? -less : less;
    };
    heads.forEach((head, place) =>
      head.setAttribute("aria-sort", place !== column ? "none" : sorted.down ? "descending" : "ascending"));
    fill([...section.systems].sort(order));
  }
  fill(section.systems);
  return el("table", { id: "systems" }, el("caption", {}, "Press a heading to sort by it."), el("thead", {}, el("tr", {}, ...heads)), body);
}

// The words of one hypothesis beside the reference: a number stands for so many words that are right.
function marked(reference, steps) {
  const words = reference.split(" ").filter(Boolean);
  const shown = [];
  let place = 0;
  for (const step of steps) {
    if (typeof step === "number") {
      shown.push(words.slice(place, place + step).join(" "));
      place += step;
    } else if (step[0] === "S") {
      shown.push(el("mark", { title: `instead of ${words[place]}` }, step[1]));
      place += 1;
    } else if (step[0] === "D") {
      shown.push(el("del", { title: "left out" }, words[place]));
      place += 1;
    } else shown.push(el("ins", { title: "not said" }, step[1]));
  }
  const spaced = shown.flatMap((part, at) => (at ? [" ", part] : [part]));
  return el("span", { class: "words" }, ...(spaced.length ? spaced : [el("span", { class: "faint" }, "(no words)")]));
}
const errorsOf = (steps) => steps.filter((step) => typeof step !== "number").length;

function playButton(one) {
  if (!one.audio) return el("span", {}, "no audio");
  const button = el("button", { type: "button", "aria-label": `Play ${one.id}` }, "▶ play");
  button.addEventListener("click", () => {
    const same = playing === button;
    stop();
    if (same) return;
    playing = button;
    button.textContent = "■ stop";
    player.src = one.audio[0] === "o" ? `data:audio/ogg;base64,${one.audio[1]}` : one.audio[1];
    player.play().catch(() => { stop(); button.textContent = "cannot be played here"; });
  });
  return button;
}
function stop() {
  player.pause();
  if (playing) playing.textContent = "▶ play";
  playing = null;
}
player.addEventListener("ended", stop);

function bar(side, found, widest) {
  const [wer, low, high] = found;
  const made = el("div", { class: `bar ${side}` });
  if (wer == null) return made;
  const fill = el("i", {}), span = el("b", {}), text = el("span", {}, `${percent(wer)} [${percent(low)}, ${percent(high)}]`);
  const scale = (share) => `${(78 * share) / widest}%`;
  fill.style.width = scale(wer);
  span.style.left = scale(low);
  span.style.width = scale(high - low);
  text.style.left = scale(Math.max(wer, high));
  made.append(fill, span, text);
  return made;
}

function show(place) {
  stop();
  const section = data.sections[place];
  const keys = section.systems.map((one) => one.key);
  const state = {
    a: keys.includes("full") ? "full" : keys[0],
    b: keys.includes("nf4+speaker") ? "nf4+speaker" : keys[keys.length - 1],
    speaker: "", differs: false, find: "", order: "corpus", shown: PAGE,
  };
  const speakers = el("div", { id: "speakers" });
  const list = el("div", { id: "utterances" });
  const count = el("span", { role: "status", id: "count" });
  const speakerChoice = choice("speaker", "speaker", [["", "all"], ...section.speakers.map((one) => [one.name, one.name])], "", (value) => set({ speaker: value }));
  function set(change) {
    Object.assign(state, { shown: PAGE }, change);
    speakerChoice.lastChild.value = state.speaker;
    draw();
  }
  function drawSpeakers() {
    const widest = Math.max(0.01, ...section.speakers.flatMap((one) => [state.a, state.b].map((key) => one.systems[key][2] || one.systems[key][0] || 0)));
    const hardest = [...section.speakers].sort((one, other) => (other.systems[state.a][0] || 0) - (one.systems[state.a][0] || 0));
    speakers.replaceChildren(...hardest.map((one) =>
      el("div", { class: "speaker", "data-speaker": one.name },
        el("button", { type: "button", title: "Show this speaker's utterances", onclick: () => set({ speaker: one.name }) }, one.name),
        el("span", { class: "faint" }, `${one.words} words`),
        el("div", {}, bar("a", one.systems[state.a], widest), bar("b", one.systems[state.b], widest)))));
  }
  function chosen() {
    const [a, b] = [keys.indexOf(state.a), keys.indexOf(state.b)];
    const wanted = state.find.toLowerCase();
    const found = section.utterances.filter((one) =>
      (!state.speaker || one.speaker === state.speaker) &&
      (!state.differs || JSON.stringify(one.hyps[a]) !== JSON.stringify(one.hyps[b])) &&
      (!wanted || `${one.id} ${one.ref}`.toLowerCase().includes(wanted)));
    const [ea, eb] = [(one) => errorsOf(one.hyps[a]), (one) => errorsOf(one.hyps[b])];
    const orders = {
      errors: (one, other) => ea(other) - ea(one),
      better: (one, other) => ea(other) - eb(other) - (ea(one) - eb(one)),
      worse: (one, other) => ea(one) - eb(one) - (ea(other) - eb(other)),
    };
    return state.order === "corpus" ? found : found.sort(orders[state.order]);
  }
  function draw() {
    stop();
    drawSpeakers();
    const found = chosen();
    const [a, b] = [keys.indexOf(state.a), keys.indexOf(state.b)];
    count.textContent = `${found.length} of ${section.utterances.length} utterances`;
    list.replaceChildren(...found.slice(0, state.shown).map((one) =>
      el("article", { "data-utterance": one.id },
        el("header", {}, playButton(one), el("code", {}, one.id), el("span", {}, `speaker ${one.speaker}`),
          el("span", {}, `errors: ${errorsOf(one.hyps[a])} and ${errorsOf(one.hyps[b])}`)),
        el("p", {}, el("span", {}, "reference"), el("span", { class: "words" }, one.ref)),
        el("p", {}, el("span", { class: "key-a" }, state.a), marked(one.ref, one.hyps[a])),
        el("p", {}, el("span", { class: "key-b" }, state.b), marked(one.ref, one.hyps[b])))));
    if (found.length > state.shown)
      list.append(el("button", { type: "button", id: "more", onclick: () => { state.shown += PAGE; draw(); } }, `Show ${Math.min(PAGE, found.length - state.shown)} more`));
  }
  const names = keys.map((key) => [key, key]);
  const differs = el("input", { type: "checkbox", id: "differs", onchange: (event) => set({ differs: event.target.checked }) });
  const find = el("input", { type: "search", id: "find", placeholder: "word or name", oninput: (event) => set({ find: event.target.value }) });
  const orders = [["corpus", "as in the corpus"], ["errors", "most errors of the first"], ["better", "second gains most"], ["worse", "second loses most"]];
  const controls = el("div", { class: "controls" },
    choice("first", "first", names, state.a, (value) => set({ a: value })),
    choice("second", "second", names, state.b, (value) => set({ b: value })),
    speakerChoice,
    el("label", {}, differs, " only where they differ"),
    choice("order", "order", orders, "corpus", (value) => set({ order: value })),
    el("label", {}, "find ", find), count);
  const labels = section.labels.map((label) => el("p", { class: "label" }, label));
  const heard = section.utterances.length > 0;
  const parts = [
    data.sections.length > 1 ? choice("results", "results", data.sections.map((one, at) => [String(at), one.heading]), String(place), (value) => show(Number(value))) : null,
    ...labels, el("p", { class: "faint" }, section.about), systemsTable(section),
    section.figures.length ? el("h2", {}, "Errors against size and minutes") : null,
    section.figures.length ? el("div", { class: "figures" }, ...section.figures.map((one) => el("img", { src: one.src, alt: one.alt }))) : null,
    el("h2", {}, heard ? "Utterances and speakers" : "Speakers"), heard ? controls : null,
    el("p", { class: "faint" }, "WER % of each speaker by the first system (above) and the second, with 95 % intervals over the speaker's utterances, the hardest first."),
    speakers,
    heard ? el("h2", {}, "Words") : null,
    heard ? el("p", { class: "faint" }, el("mark", {}, "another word"), " ", el("ins", {}, "not said"), " ", el("del", {}, "left out"), `. ${section.audio}`) : null,
    heard ? list : null,
  ];
  page.replaceChildren(...parts.filter((part) => part != null));
  draw();
}
show(0);
