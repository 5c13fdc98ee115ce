"""The words that questions about data are made of, as patterns over a text in lower case."""

from graphs._text import word_set

CAN = (
    "how many rows a table has, sums, averages, highest and lowest values, revenue, the top N by any of these; each of "
    "them per column, table, day, week, month or year; lists of rows; and what is late. All can be limited to values "
    "of text columns (in Berlin), numbers (price over 100), row numbers (order 12) and dates (last month, in 2024, "
    "this week)"
)
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
            "ten": 10, "twenty": 20}  # fmt: skip
N = rf"(?:\d{{1,4}}|{'|'.join(_NUMBERS)})"
LATE = r"(?<!\w)(?:are |is |were |was |be |being )?(?:too )?(?:late|overdue|delayed)(?!\w)"
REVENUE = r"(?<!\w)(?:sales )?(?:revenues?|turnover|sales(?! \w*tickets?)|spending|earnings|income)(?!\w)"
EARNED = r"how much (?:money )?(?=.*\b(?:earn|spen|sell|sold|paid|make|made))"
MOST = r"(?<!\w)(?:with |has |have |had |placed |made )?(?:the )?(?P<how>most|fewest|highest|lowest)(?= )"
GRAMMAR = word_set(
    """
    per by for in most least fewest top best new newest latest last late overdue delayed total sum average mean highest
    lowest number spent sold first oldest cheapest revenue turnover sales value without not no never except
    """
)
FUNCTIONS = {"average": "AVG", "mean": "AVG", "total": "SUM", "sum": "SUM", "maximum": "MAX", "max": "MAX",
             "largest": "MAX", "minimum": "MIN", "min": "MIN", "smallest": "MIN"}  # fmt: skip
COMPARISONS = {
    "over": ">", "above": ">", "more than": ">", "greater than": ">", "at least": ">=", "under": "<", "below": "<",
    "less than": "<", "fewer than": "<", "at most": "<=", "exactly": "=",
}  # fmt: skip
_SIGNS = "|".join(sorted(COMPARISONS, key=len, reverse=True))
COMPARED = rf"(?:costs? |costing |priced )?(?P<how>{_SIGNS}) (?P<than>\d+(?:\.\d+)?|{N})(?!\w)"
TOP = 5  # groups or rows, where the question gives no number


def number_of(said: str) -> float:
    """A number in digits or in words."""
    return _NUMBERS.get(said) or (float(said) if "." in said else int(said))
