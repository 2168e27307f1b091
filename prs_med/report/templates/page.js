"use strict";

// What a row is sorted by; null for a cell without a value.
function sortKey(cell) {
  return "missing" in cell.dataset ? null : cell.dataset.sort ?? cell.textContent;
}

// As numbers where both are numbers, else as words.
function compareKeys(a, b) {
  const x = Number(a), y = Number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
}

function sortBy(table, head) {
  const direction = head.ariaSort === "ascending" ? -1 : 1;
  const rows = [...table.tBodies[0].rows].map(row => [sortKey(row.cells[head.cellIndex]), row]);
  const known = rows.filter(([key]) => key !== null);
  const unknown = rows.filter(([key]) => key === null);
  known.sort(([a], [b]) => direction * compareKeys(a, b));
  table.tBodies[0].append(...[...known, ...unknown].map(([, row]) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.ariaSort = direction === 1 ? "ascending" : "descending";
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  for (const head of table.tHead.rows[0].cells) {
    head.querySelector("button").addEventListener("click", () => sortBy(table, head));
  }
}
