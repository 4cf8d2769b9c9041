"use strict";
// Renders the labels of the page, a part at a time; names and captions are inserted as text, never as HTML.
(() => {
  const STEP = 40;
  const labels = JSON.parse(document.getElementById("labels").textContent);
  const body = document.querySelector("#table tbody");
  const search = document.getElementById("search");
  const more = document.getElementById("more");
  const maxCount = Math.max(1, ...labels.map((label) => label.count));
  let kind = "all";
  let limit = STEP;

  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const number = (value) => value.toLocaleString("en");

  function detailRow(label) {
    const cell = make("td");
    cell.colSpan = 6;
    for (const text of label.examples || []) {
      const line = make("p");
      line.append(make("q", text));
      cell.append(line);
    }
    const lines = [];
    if (label.synonyms.length) lines.push(["Synonyms", label.synonyms.join(", ")]);
    const sources = Object.entries(label.sources).map(([name, count]) => `${name} ${number(count)}`);
    if (sources.length) lines.push(["Sources", sources.join(", ")]);
    const words = Object.entries(label.words || {}).map(
      ([name, [matched, agreed]]) => `${name} ${Math.round((100 * agreed) / matched)}% of ${number(matched)}`
    );
    if (words.length) lines.push(["Parse agrees with matched words", words.join(", ")]);
    if (label.ambiguous.length) lines.push(["Ambiguous, not matched by words alone", label.ambiguous.join(", ")]);
    for (const [name, text] of lines) {
      const line = make("p");
      line.append(make("span", `${name}: `, "soft"), text);
      cell.append(line);
    }
    if (!cell.childNodes.length) cell.append(make("p", "No synonyms, examples or sources.", "soft"));
    const row = make("tr", undefined, "more");
    row.append(cell);
    return row;
  }

  function labelRow(label, id) {
    const row = make("tr", undefined, "label");
    const name = make("th", label.name);
    name.scope = "row";
    const type = make("td", undefined, "left");
    type.append(make("span", "", `dot ${label.kind}`), label.kind);
    const bar = make("td", undefined, "bar");
    const fill = make("div", "", label.kind);
    fill.style.width = `${(100 * Math.sqrt(label.count / maxCount)).toFixed(1)}%`;
    fill.title = "length: square root of the count";
    bar.append(fill);
    const synonyms = label.synonyms.slice(0, 8).join(", ") + (label.synonyms.length > 8 ? ", …" : "");
    row.append(make("td", id, "soft"), name, type, make("td", number(label.count)), bar, make("td", synonyms, "names"));
    row.tabIndex = 0;
    const toggle = () => {
      const next = row.nextElementSibling;
      if (next && next.classList.contains("more")) next.remove();
      else row.after(detailRow(label));
    };
    row.addEventListener("click", toggle);
    row.addEventListener("keydown", (event) => {
      if (event.key === "Enter") toggle();
    });
    return row;
  }

  function render() {
    const text = search.value.trim().toLowerCase();
    const matches = [];
    labels.forEach((label, id) => {
      if (kind !== "all" && label.kind !== kind) return;
      if (text && ![label.name, ...label.synonyms].some((name) => name.includes(text))) return;
      matches.push([label, id]);
    });
    body.replaceChildren(...matches.slice(0, limit).map(([label, id]) => labelRow(label, id)));
    document.getElementById("shown").textContent =
      `${number(Math.min(limit, matches.length))} of ${number(matches.length)} labels`;
    more.hidden = matches.length <= limit;
    for (const button of document.querySelectorAll("#kinds button"))
      button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
  }

  search.addEventListener("input", () => {
    limit = STEP;
    render();
  });
  document.getElementById("kinds").addEventListener("click", (event) => {
    if (!event.target.dataset.kind) return;
    kind = event.target.dataset.kind;
    limit = STEP;
    render();
  });
  more.addEventListener("click", () => {
    limit += 10 * STEP;
    render();
  });
  render();
})();
