"use strict";
// Sorts, filters and pages the tables. Without it they stand whole, in their first order.

const collator = new Intl.Collator(undefined, { numeric: true });

function tableOf(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: row.textContent.toLowerCase(), tags: (row.dataset.tags ?? "").split(" ") }));
  const page = Number(table.dataset.page);
  const state = { words: [], tag: "", column: -1, kind: "text", sign: 1, shown: page };
  const more = document.createElement("button");
  more.type = "button";
  more.className = "more";
  table.parentElement.after(more);

  const keyOf = (item) => {
    const cell = item.row.cells[state.column];
    const text = cell.dataset.value ?? cell.textContent.trim(); // a cell may say more than its number
    return state.kind === "number" && text ? Number(text) : text;
  };
  const sorted = (items) => {
    if (state.column < 0) return items;
    const keyed = items.map((item) => ({ item, key: keyOf(item) }));
    const order = (a, b) => (state.kind === "number" ? a.key - b.key : collator.compare(a.key, b.key));
    // Rows without a value come last in both directions.
    keyed.sort((a, b) => (a.key === "") - (b.key === "") || (a.key === "" ? 0 : state.sign * order(a, b)));
    return keyed.map(({ item }) => item);
  };
  const fits = (item) => (!state.tag || item.tags.includes(state.tag)) && state.words.every((word) => item.text.includes(word));

  const update = (change) => {
    Object.assign(state, { shown: page }, change);
    const found = sorted(rows.filter(fits));
    body.replaceChildren(...found.slice(0, state.shown).map((item) => item.row));
    more.hidden = found.length <= state.shown;
    more.textContent = `Show more (${state.shown} of ${found.length} shown)`;
    if (table.report) table.report(found.length, rows.length);
  };
  more.addEventListener("click", () => update({ shown: state.shown + 5 * page }));

  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.title = head.title;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = state.column === column ? -state.sign : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      update({ column, kind: head.dataset.sort, sign });
    });
  });
  table.update = update;
  update({});
}

const counted = (count) => `${count} ${count === 1 ? "clip" : "clips"}`;

function filterOf(form) {
  const table = document.getElementById(form.dataset.for);
  const [search, select, output] = ["input", "select", "output"].map((name) => form.querySelector(name));
  table.report = (found, all) => { output.textContent = found === all ? counted(all) : `${found} of ${counted(all)}`; };
  const apply = () => table.update({ words: search.value.toLowerCase().split(/\s+/).filter(Boolean), tag: select.value });
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const link of document.querySelectorAll("a[data-tag]")) {
    link.addEventListener("click", () => { search.value = ""; select.value = link.dataset.tag; apply(); });
  }
  form.hidden = false;
  apply();
}

document.querySelectorAll("table[data-page]").forEach(tableOf);
document.querySelectorAll("form.filter").forEach(filterOf);
