// What the tests ask of a page. Each returns a list of what is wrong.
const shown = element => element.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true });
const short = element => element.tagName + " " + element.textContent.trim().slice(0, 60);

// texts are the elements with text of their own.
const texts = () => [...(document.body ?? document.documentElement).querySelectorAll("*")].filter(element => shown(element) &&
	!["SCRIPT", "STYLE"].includes(element.tagName) &&
	[...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()));

// sideways finds what is wider than the screen, and text that is too small for one.
function sideways(smallest, scrolls = "none") {
	const wrong = [];
	const width = document.documentElement.clientWidth;
	if (document.documentElement.scrollWidth > width) wrong.push("the page scrolls sideways");
	for (const element of texts()) {
		if (element.closest(scrolls)) continue;
		const range = document.createRange();
		range.selectNodeContents(element);
		for (const box of range.getClientRects()) {
			// what only a screen reader sees is a pixel wide
			if (element.closest("thead")?.clientWidth <= 1) continue;
			if (box.right > width + 1 || box.left < -1) { wrong.push("beyond the edge: " + short(element)); break; }
		}
		if (parseFloat(getComputedStyle(element).fontSize) < smallest) wrong.push("too small: " + short(element));
	}
	return wrong;
}

const channels = color => color.match(/[\d.]+/g).map(Number);
function luminance(color) {
	const [r, g, b] = channels(color).map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
	return .2126 * r + .7152 * g + .0722 * b;
}
function ground(element) {
	for (; element; element = element.parentElement) {
		const color = getComputedStyle(element).backgroundColor;
		if (channels(color)[3] !== 0) return color;
	}
	return "rgb(255, 255, 255)";
}

// faint finds text whose contrast with its ground is below the 4.5 of WCAG 2, level AA.
function faint() {
	return texts().flatMap(element => {
		const a = luminance(getComputedStyle(element).color), b = luminance(ground(element));
		const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		return contrast < 4.5 ? ["contrast " + contrast.toFixed(2) + ": " + short(element)] : [];
	});
}

// disorder finds rows that are more pressing than one above them.
function disorder() {
	const severity = row => row.querySelector(".findings .bad") ? 0 : row.querySelector(".findings .warn") ? 1 :
		row.querySelector(".bad") ? 2 : 3;
	const rows = [...document.querySelectorAll(".rows tbody tr")];
	return rows.flatMap((row, i) => i > 0 && severity(rows[i - 1]) > severity(row) ? [short(row)] : []);
}

const rowsShown = () => [...document.querySelectorAll(".rows tbody tr")].filter(shown).length;

// unmarked says what is wrong with the element that has the focus: nothing shows that it has.
function unmarked() {
	const style = getComputedStyle(document.activeElement);
	return style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2 ? [short(document.activeElement)] : [];
}

// unrendered finds pictures that aren't there, and Markdown that was left as it is.
function unrendered() {
	const wrong = [...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => "no picture: " + image.src);
	for (const element of texts()) {
		if (element.closest("code, pre")) continue;
		const own = [...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE).map(node => node.data).join("");
		if (/\|\s*-{3}|^\s*\||```|\*\*|!\[|\]\(|^#+ /m.test(own)) wrong.push("not rendered: " + own.trim().slice(0, 80));
	}
	return wrong;
}

// cut finds texts of a picture that leave it, and texts that lie on each other.
function cut() {
	const edge = document.documentElement.getBoundingClientRect();
	const labels = [...document.querySelectorAll("text")].filter(text => text.textContent.trim())
		.map(text => ({ text: text.textContent.trim(), box: text.getBoundingClientRect(), turned: text.hasAttribute("transform") }));
	const wrong = labels.filter(({ box }) => box.left < edge.left - 1 || box.right > edge.right + 1 || box.top < edge.top - 1 ||
		box.bottom > edge.bottom + 1).map(({ text }) => "cut off: " + text);
	for (const [i, a] of labels.entries()) for (const b of labels.slice(i + 1)) {
		const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
		const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
		if (across > 2 && down > 5) wrong.push("one on the other: " + a.text + " and " + b.text);
	}
	return wrong;
}

// parts are the texts that have to be printed, without spaces, whatever is folded. Long rows of other tables may go on
// on the next page.
const parts = () => [...document.querySelectorAll("h1, h2, p:not(.find), li, summary, .rows tr, td.name, td .tag")]
	.map(element => element.textContent.replace(/\s/g, ""));

// covered reports whether a light ground lies under the whole picture.
function covered() {
	const ground = document.querySelector("rect"), edge = document.documentElement.getBoundingClientRect();
	if (!ground) return false;
	const box = ground.getBoundingClientRect();
	return box.width >= edge.width - 1 && box.height >= edge.height - 1 && luminance(getComputedStyle(ground).fill) > .8;
}
