"""The data analyst by rules: a question, the statement that answers it, and what the database said."""

from datetime import date

from graphs._service_build import CannotAnswer
from graphs._service_customer import Files
from graphs._service_database import Database, QueryFailed, Rows
from graphs._service_desk import Work, counted, shown, table
from graphs._service_gate import QueryRefused
from graphs._service_grammar import CAN
from graphs._service_questions import query_for
from graphs._types import RULES
from orchestra import Assignment


def analyse(task: Assignment, asked: str, database: Database, day: date) -> Work:
    """Answer a question from the data; if it is not understood, say what can be asked."""
    files = Files(database)
    customer = files.user(task)
    try:
        mine = files.condition(customer) if customer else None
        query, sql = query_for(asked, files.schema, database, day, mine)
        rows = database.query(sql)
    except (CannotAnswer, QueryRefused) as error:
        return refusal(asked, files, str(error))
    except QueryFailed as error:
        return refusal(asked, files, f"{error}, though the question was understood")
    return answer(asked, rows, query.said())


def refusal(asked: str, files: Files, why: str) -> Work:
    """Say that a question is not answered, why, and what can be asked."""
    text = (
        f"I can't answer “{asked}” from the data: {why}. No number is given rather than a guess.\n\n"
        f"I can answer: {CAN}.\n\nThe tables are: {files.schema}."
    )
    return Work(asked=asked, text=text)


def answer(asked: str, rows: Rows, read_as: str, made_by: str = RULES) -> Work:
    """What the database said, with the statement and how the question was read."""
    if len(rows.rows) == 1 and len(rows.columns) == 1:
        value = rows.rows[0][0]
        said = "nothing: there are no such rows" if value is None else shown(value)
        head = f"**{rows.columns[0].replace('_', ' ')}: {said}**"
    elif not rows.rows:
        head = "**There are no such rows.**"
    else:
        head = f"{table(rows)}"
    text = f"{head}\n\nRead as: {read_as}.\n\n```sql\n{rows.sql}\n```\n\n{counted(rows).capitalize()}."
    return Work(asked=asked, text=text, rows=(rows,), made_by=made_by)
