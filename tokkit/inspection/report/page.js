// Sorts a table by the column whose heading is pressed, once up, once down.
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const table = heading.closest("table");
    const column = [...heading.parentElement.children].indexOf(heading);
    const down = heading.getAttribute("aria-sort") === "ascending";
    const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
    const compare = (a, b) => {
      const [left, right] = [value(a), value(b)];
      const [x, y] = [parseFloat(left), parseFloat(right)];
      const numbers = row => row.children[column].dataset.value !== undefined;
      return numbers(a) && numbers(b) ? x - y : left.localeCompare(right);
    };
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -compare(a, b) : compare(a, b)));
    table.tBodies[0].append(...rows);
  });
}
// On paper, everything that is folded is open.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
