"use strict";
// The browser of samples. Text of a run is only ever set as text, never parsed as markup.
(() => {
  const ROW = 60, KEEP = 8, WAIT_MS = 200, SHOW_MS = 120, MARKS = 300;
  const SIGNS = { right: "\u2713", wrong: "\u2717", part: "\u25d0", none: "\u2013" };
  const WORDS = { right: "right", wrong: "wrong", part: "in part", none: "no score" };
  const at = (id) => document.getElementById(id);
  const count = (n) => n.toLocaleString("en-US");

  window.addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });

  function make(tag, css, text) {
    const made = document.createElement(tag);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  async function unpack(id) {
    const packed = atob(at(id).textContent);
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).text();
  }

  // ---- units: numbered from 0 on, through all groups -----------------------------------------
  let runs = [], groups = [], tasks = [];
  let groupOf, placeOf;

  function standing(score) {
    if (score === null) return "none";
    return score >= 1 ? "right" : score <= 0 ? "wrong" : "part";
  }

  function chunkOf(group, place) {
    let low = 0, high = group.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (group.starts[middle] <= place) low = middle; else high = middle - 1;
    }
    return low;
  }

  const parsed = new Map();  // the last chunks that were read, by number
  async function readUnit(number) {
    const group = groups[groupOf[number]], place = placeOf[number];
    const chunk = chunkOf(group, place), name = group.first_chunk + chunk;
    if (!parsed.has(name)) {
      parsed.set(name, unpack("chunk-" + name).then(JSON.parse));
      if (parsed.size > KEEP) parsed.delete(parsed.keys().next().value);
    }
    return (await parsed.get(name))[place - group.starts[chunk]];
  }

  // ---- filters and search --------------------------------------------------------------------
  let shown = [], chosen = -1;
  let needle = "", hits = null, searching = null, search = 0;

  function filters() {
    return { run: at("by-run").value, task: at("by-task").value,
             outcome: at("by-outcome").value, score: at("by-score").value };
  }

  function groupPasses(group, by) {
    return (by.run === "" || group.run === Number(by.run)) && (by.task === "" || group.task === by.task);
  }

  function filter() {
    const by = filters(), before = shown[chosen];
    shown = [];
    let number = 0;
    for (const group of groups) {
      const size = group.id.length;
      if (groupPasses(group, by)) {
        for (let place = 0; place < size; place++) {
          if ((by.outcome === "" || group.outcome[place] === by.outcome)
              && (by.score === "" || standing(group.score[place]) === by.score)
              && (hits === null || hits[number + place])) shown.push(number + place);
        }
      }
      number += size;
    }
    chosen = before === undefined ? -1 : shown.indexOf(before);
    at("spacer").style.height = shown.length * ROW + "px";
    say();
    draw();
  }

  function say() {
    const all = groupOf.length;
    let text = count(shown.length) + " of " + count(all) + (all === 1 ? " unit" : " units");
    if (searching !== null) text += ", searched " + Math.floor(100 * searching) + " %";
    at("found").textContent = text;
  }

  function holds(value, wanted) {
    if (typeof value === "string") return value.toLowerCase().includes(wanted);
    if (value !== null && typeof value === "object") {
      for (const key in value) if (holds(value[key], wanted)) return true;
    }
    return typeof value === "number" && String(value) === wanted;
  }

  async function find() {
    const own = ++search;
    needle = at("query").value.trim().toLowerCase();
    if (needle === "") { hits = searching = null; filter(); return; }
    hits = new Uint8Array(groupOf.length);
    searching = 0;
    const by = filters(), escaped = JSON.stringify(needle).slice(1, -1);
    const work = [];
    let number = 0;
    for (const group of groups) {
      if (groupPasses(group, by)) {
        for (let place = 0; place < group.id.length; place++) {
          if (String(group.id[place]).toLowerCase().includes(needle)) hits[number + place] = 1;
        }
        for (let chunk = 0; chunk < group.starts.length; chunk++) work.push([group, number, chunk]);
      }
      number += group.id.length;
    }
    filter();
    let last = performance.now();
    for (let done = 0; done < work.length; done++) {
      const [group, first, chunk] = work[done];
      const text = await unpack("chunk-" + (group.first_chunk + chunk));
      if (own !== search) return;
      // Most chunks hold the word nowhere: these are not parsed.
      if (text.toLowerCase().includes(escaped)) {
        JSON.parse(text).forEach((unit, i) => {
          if (holds(unit, needle)) hits[first + group.starts[chunk] + i] = 1;
        });
      }
      searching = (done + 1) / work.length;
      if (performance.now() - last > SHOW_MS) {
        filter();
        await new Promise((go) => setTimeout(go));
        if (own !== search) return;
        last = performance.now();
      }
    }
    searching = null;
    filter();
  }

  // ---- the list: only rows in view are there ---------------------------------------------------
  const rows = new Map();

  function draw() {
    const list = at("list");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
    for (const [place, row] of rows) {
      if (place < first || place >= last || row.unit !== shown[place]) {
        row.element.remove();
        rows.delete(place);
      }
    }
    for (let place = first; place < last; place++) {
      if (!rows.has(place)) {
        const element = makeRow(place);
        rows.set(place, { unit: shown[place], element });
        at("spacer").append(element);
      }
      rows.get(place).element.setAttribute("aria-selected", place === chosen ? "true" : "false");
    }
    if (chosen >= 0 && rows.has(chosen)) list.setAttribute("aria-activedescendant", "row-" + shown[chosen]);
    else list.removeAttribute("aria-activedescendant");
  }

  function makeRow(place) {
    const number = shown[place], group = groups[groupOf[number]], i = placeOf[number];
    const kind = standing(group.score[i]);
    const row = make("div", "row");
    row.id = "row-" + number;
    row.setAttribute("role", "option");
    row.setAttribute("aria-setsize", shown.length);
    row.setAttribute("aria-posinset", place + 1);
    row.style.transform = "translateY(" + place * ROW + "px)";
    const top = make("div");
    top.append(make("span", "mark-" + kind, SIGNS[kind] + " " + WORDS[kind]), " ",
      make("b", "", group.id[i]), make("span", "quiet", about(group, i)));
    const under = make("div", "under", underOf(group, i));
    row.append(top, under);
    row.addEventListener("click", () => choose(place, true));
    return row;
  }

  function about(group, i) {
    const parts = [" repeat " + group.repeat[i]];
    if (tasks.length > 1) parts.push(group.task);
    if (runs.length > 1) parts.push(runs[group.run]);
    if (group.outcome[i] !== "ok") parts.push(group.outcome[i]);
    if (group.tokens[i] !== null) parts.push(count(group.tokens[i]) + " tokens");
    return parts.join(" \u00b7 ");
  }

  function underOf(group, i) {
    const answer = group.answer[i] === null ? "" : "\u2192 " + group.answer[i] + "   ";
    return group.withheld ? "(texts are not in this page)" : answer + group.preview[i];
  }

  function choose(place, opens) {
    if (!shown.length) return;
    chosen = Math.max(0, Math.min(shown.length - 1, place));
    const list = at("list"), top = chosen * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    draw();
    show(shown[chosen], opens);
  }

  // ---- one unit --------------------------------------------------------------------------------
  let showing = -1;
  async function show(number, opens) {
    showing = number;
    const unit = await readUnit(number);
    if (showing !== number) return;
    const pane = at("unit");
    pane.replaceChildren(...parts(number, unit));
    pane.scrollTop = 0;
    if (opens && matchMedia("(max-width: 46rem)").matches) pane.scrollIntoView();
  }

  function parts(number, unit) {
    const group = groups[groupOf[number]], i = placeOf[number], kind = standing(group.score[i]);
    const back = make("button", "back", "Back to the list");
    back.addEventListener("click", toList);
    const head = make("h3", "", group.id[i]);
    head.append(make("span", "quiet", about(group, i)));
    const verdict = make("p");
    verdict.append(make("span", "mark-" + kind, SIGNS[kind] + " " + WORDS[kind]), " ",
      make("span", "quiet", "outcome " + group.outcome[i]));
    const facts = make("dl", "facts");
    const fact = (name, value) => {
      if (value === undefined || value === null) return;
      const box = make("div", text(value).length > 40 ? "long" : ""), shownValue = make("dd");
      fill(shownValue, text(value));
      box.append(make("dt", "", name), shownValue);
      facts.append(box);
    };
    fact("extracted answer", unit.answer === undefined ? (group.withheld ? null : "(none)") : unit.answer);
    fact("target", unit.target);
    for (const [name, value] of Object.entries(unit.scores || {})) fact(name, value);
    fact("finish reason", unit.finish_reason);
    for (const [name, value] of Object.entries(unit.usage || {})) fact(name.replace("_", " "), value);
    fact("calls", unit.calls);
    fact("detail", unit.detail);
    const made = [back, head, verdict, facts];
    if (group.withheld) {
      made.push(make("p", "warning", "Questions, answers and a judge's words are not in this page: the data's authors ask not to publish them."));
    }
    if (unit.messages) {
      made.push(make("h4", "", "Prompt"));
      for (const message of list(unit.messages)) {
        made.push(make("p", "quiet", message.role || "message"), block(content(message)));
      }
    }
    if (unit.reasoning) made.push(folded("Reasoning", unit.reasoning));
    if (unit.content) made.push(make("h4", "", "Answer"), block(unit.content));
    if (unit.tool_calls) made.push(make("h4", "", "Tool calls"), ...list(unit.tool_calls).map((call) => fields(call.function || call)));
    if (unit.steps) {
      made.push(make("h4", "", "Steps outside of the model"));
      for (const step of list(unit.steps)) made.push(fields(step));
    }
    if (unit.grading !== undefined) made.push(make("h4", "", "What a judge or a sandbox found"), fields(unit.grading));
    if (unit.data !== undefined) made.push(folded("Data for the scorer", unit.data));
    return made;
  }

  function list(value) { return Array.isArray(value) ? value : [value]; }

  function content(message) {
    if (typeof message !== "object" || message === null) return message;
    return message.content === undefined || message.content === null ? message : message.content;
  }

  function text(value) { return typeof value === "string" ? value : JSON.stringify(value, null, 2); }

  function folded(name, value) {
    const box = make("details"), shownText = text(value);
    box.open = needle !== "" && shownText.toLowerCase().includes(needle);
    box.append(make("summary", "", name + " (" + count(shownText.length) + " letters)"), block(value));
    return box;
  }

  // An object by its keys and a list by its items, so that code and output keep their lines.
  function fields(value) {
    if (Array.isArray(value) && value.some((each) => typeof each === "string" && each.includes("\n"))) {
      const box = make("div");
      for (const each of value) box.append(fields(each));
      return box;
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) return block(value);
    const box = make("div", "card");
    for (const [name, inner] of Object.entries(value)) {
      if (inner === null || inner === "") continue;
      box.append(make("p", "quiet", name), fields(name === "arguments" ? unquoted(inner) : inner));
    }
    return box;
  }

  // Arguments of a tool are JSON in a text, which hides the lines of code.
  function unquoted(value) {
    if (typeof value !== "string" || !value.startsWith("{")) return value;
    try { return JSON.parse(value); } catch { return value; }
  }

  function block(value) {
    const made = make("pre");
    fill(made, text(value));
    return made;
  }

  // Text with the places that were searched for marked.
  function fill(element, whole) {
    const small = whole.toLowerCase();
    let from = 0, marks = 0;
    // Where lower case has another length, places would not fit.
    if (needle !== "" && small.length === whole.length) {
      for (let to = small.indexOf(needle); to >= 0 && marks < MARKS; to = small.indexOf(needle, from)) {
        element.append(whole.slice(from, to), make("mark", "", whole.slice(to, to + needle.length)));
        from = to + needle.length;
        marks++;
      }
    }
    element.append(whole.slice(from));
  }

  // ---- keys ------------------------------------------------------------------------------------
  function toList() {
    at("list").focus();
    at("list").scrollIntoView({ block: "nearest" });
  }

  const MOVES = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 8, PageUp: -8 };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inField = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape") {
      if (at("panes").contains(event.target) || inField) { event.preventDefault(); toList(); }
    } else if (event.key === "/" && !inField) {
      event.preventDefault();
      at("query").focus();
      at("query").select();
    } else if (inField) {
      if (event.key === "Enter" && event.target === at("query")) { toList(); choose(0, false); }
    } else if (event.target === at("list")) {
      onListKey(event);
    } else if ((event.key === "j" || event.key === "k") && at("panes").contains(event.target)) {
      choose(chosen + MOVES[event.key], false);
    }
  }

  function onListKey(event) {
    if (event.key in MOVES) choose(chosen < 0 ? 0 : chosen + MOVES[event.key], false);
    else if (event.key === "Home") choose(0, false);
    else if (event.key === "End") choose(shown.length - 1, false);
    else if (event.key === "Enter" && chosen >= 0) at("unit").focus();
    else return;
    event.preventDefault();
  }

  // ---- start -----------------------------------------------------------------------------------
  function options(select, values) {
    for (const [value, name] of values) {
      const option = make("option", "", name);
      option.value = value;
      at(select).append(option);
    }
  }

  async function start() {
    if (typeof DecompressionStream === "undefined") {
      at("trouble").textContent = "This browser is too old to unpack the samples: it needs DecompressionStream, which all browsers have since May 2023.";
      at("trouble").hidden = false;
      return;
    }
    ({ runs, groups } = JSON.parse(await unpack("index")));
    const total = groups.reduce((sum, group) => sum + group.id.length, 0);
    groupOf = new Uint16Array(total);
    placeOf = new Uint32Array(total);
    let number = 0;
    groups.forEach((group, g) => {
      for (let i = 0; i < group.id.length; i++, number++) { groupOf[number] = g; placeOf[number] = i; }
    });
    options("by-run", runs.map((name, i) => [i, name]));
    tasks = [...new Set(groups.map((group) => group.task))];
    options("by-task", tasks.map((name) => [name, name]));
    options("by-outcome", [...new Set(groups.flatMap((group) => [...new Set(group.outcome)]))].sort().map((name) => [name, name]));
    at("browser").hidden = false;
    let waiting = 0;
    at("query").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(find, WAIT_MS);
    });
    for (const id of ["by-outcome", "by-score"]) at(id).addEventListener("change", filter);
    for (const id of ["by-run", "by-task"]) at(id).addEventListener("change", find);
    at("list").addEventListener("scroll", draw, { passive: true });
    window.addEventListener("resize", draw);
    document.addEventListener("keydown", onKey);
    filter();
    document.documentElement.dataset.ready = "yes";
  }

  start();
})();
