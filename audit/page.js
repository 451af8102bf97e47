// Shows the workloads whose row has all words of the filter. What is folded unfolds where
// they are few, since a browser takes seconds to lay thousands of rows out.
const filter = document.getElementById("filter"), found = document.getElementById("found");
const groups = [...document.querySelectorAll("details.rows")].map(group => ({
	group, open: group.open, count: group.querySelector("summary span"),
	rows: [...group.querySelectorAll("tbody tr")].map(row => ({ row, text: row.textContent.toLowerCase() })),
}));
filter.closest("p").hidden = false;
filter.addEventListener("input", () => {
	const words = filter.value.toLowerCase().split(/\s+/).filter(word => word);
	let all = 0;
	for (const { group, open, count, rows } of groups) {
		let shown = 0;
		for (const { row, text } of rows) {
			row.hidden = !words.every(word => text.includes(word));
			if (!row.hidden) shown++;
		}
		group.hidden = !shown;
		group.open = words.length ? shown <= filter.dataset.most : open;
		count.textContent = words.length ? shown + " of " + rows.length : count.dataset.all;
		all += shown;
	}
	found.textContent = words.length ? all + " match “" + words.join(" ") + "”" : "";
});
