"""Answer what customers and colleagues of a shop ask: from its database, its handbook and what is known of them.

    orchestra run service_desk "Which of my orders are late, and write the customer an apology" --user ada

    data_analyst ──────┐
    customer_service ──┼─ front_desk
    sales_outreach ────┘

The data analyst turns a question into one SELECT and shows it with the rows; customer service drafts replies from the
handbook and the customer's own orders and tickets; sales outreach drafts a message from what a customer bought. Each
request gets its own plan: its parts go to whoever is like them, a letter waits for the analysis before it, and what
nobody can do is said. Nothing is ever sent or changed.

How a customer wants to be treated (name, tone, language, way of contact, no messages) and the last complaint are
remembered for the run's `user`, over threads and processes. "My orders" are those of the customer whose name or email
address the user has, or who the user says to be. The desk checks nobody's identity: that is for the program that calls
it, and `user` is its word.

The database is named in the request (`database: sqlite:///shop.db`), or by SERVICE_DESK_DB; else it is a sample shop,
and the answer says so. It is only read, in three ways: every statement has to be one SELECT with functions that only
compute (`_service_gate`), it runs where the database refuses to write, and it has limits of time and rows
(`_service_database`). Which rows may be read is the business of the database's permissions: give the desk a user with
SELECT on what it should see, and nothing else. Keep passwords out of requests, since these are stored.

Without a model all is done by rules; the analyst's say what they don't understand instead of guessing. With
`ORCHESTRA_MODEL` set, and `OPENAI_API_KEY` or `OPENAI_BASE_URL`, a model plans and plays the specialists, its SQL goes
through the same gate, and the rules are the backups. SERVICE_DESK_TOKENS is what a turn may take, 100,000 by default.
"""

from collections.abc import Callable
from typing import Any

from langgraph.types import RetryPolicy

from graphs import _service_desk, _service_model
from graphs._environment import model_from_environment, number_from_environment
from graphs._service_analyst import analyse
from graphs._service_customer import Files
from graphs._service_desk import Today, Work, database_for, database_of, question_of
from graphs._service_outreach import outreach
from graphs._service_plan import ANALYST, FRONT, SALES, SERVICE, UNABLE, DeskPlanner, RulePlanner
from graphs._service_replies import reply
from graphs._types import RULES
from orchestra import Agent, Assignment, Budget, Capability, Workflow

EXAMPLE = "Which of my orders are late, and write the customer an apology"
MAX_TASKS = 12

CAPABILITIES = {
    ANALYST: Capability(
        "data analysis",
        "Questions about numbers and rows of the database: how many, revenue, sums, averages, top, per month, lists.",
        (
            "How many orders did we have last month?",
            "What was the revenue per month in 2024?",
            "Which products sold best this year?",
            "Top 5 customers by revenue",
            "Which of my orders are late?",
            "What is the average price of our products per category?",
            "List all open tickets of customers in Berlin",
            "Show the newest orders of a customer",
            "How many customers are there per country?",
            "Which customers have the most orders?",
            "Find the customers who bought the most lamps",
            "Number of tickets opened since January",
        ),
    ),
    SERVICE: Capability(
        "customer service",
        "Replies to customers: returns, refunds, delivery, damage, warranty, invoices, complaints, apologies.",
        (
            "Where is my order?",
            "Where is my parcel, it has not arrived yet",
            "My order 12 arrived broken, what can I do?",
            "How long do I have to return a chair and get my money back?",
            "Can I cancel my order?",
            "Write the customer an apology",
            "Apologise to the customer for the delay",
            "I want my money back",
            "The invoice shows the wrong address",
            "How long is the warranty on a lamp?",
            "I want to complain about a late delivery",
            "Reply to the complaint of the customer",
            "What is your return policy?",
            "Is shipping free for returns?",
        ),
    ),
    SALES: Capability(
        "sales outreach",
        "Sales messages to customers about products that they may like.",
        (
            "Write a sales message to the customer",
            "Write each of them an offer",
            "Recommend me something that goes with my purchases",
            "Draft an offer for our best customers",
            "Pitch our new products to a customer",
            "Suggest products that this customer may like",
            "Win the customer back with a short sales email",
            "Promote our desks to customers who never bought one",
            "Draft a marketing message with a discount",
        ),
    ),
}
CAN_DO = (
    "answer questions about the data (how many, revenue, top N, late orders), draft replies to customers (orders, "
    "returns, delivery, damage, warranty, invoices), draft sales messages, and remember how you want to be treated"
)


def build(
    model: Any = None, *, tokens: int = 100_000, max_tokens: int = 2000, today: Today = _service_desk.today
) -> Workflow:
    """The workflow; with a chat model, it plans and plays the specialists, and the rules are backups.

    Args:
        model: a chat model.
        tokens: what a turn may take in all.
        max_tokens: the limit of one answer of the model.
        today: the day that "last month" counts from.
    """

    def check_request(request: str) -> None:
        """Read the tables, so that a bad database is reported before any agent runs."""
        question_of(request)
        database_for([request], today()).schema()

    def data_analyst(task: Assignment) -> Work:
        """Turn a question into one SELECT, and show the statement with the rows."""
        return analyse(task, _asked(task), database_of(task, today()), today())

    def customer_service(task: Assignment) -> Work:
        """Draft a reply to a customer from the handbook, orders and tickets; remember wishes."""
        return reply(task, _asked(task), Files(database_of(task, today())), today())

    def sales_outreach(task: Assignment) -> Work:
        """Draft an honest sales message from what a customer bought."""
        return outreach(task, _asked(task), Files(database_of(task, today())))

    def front_desk(task: Assignment) -> str:
        """Say what nobody here can do, and put the answer together."""
        return _together(task, sample=database_of(task, today()).sample)

    flow = Workflow(
        "service_desk",
        planner=DeskPlanner(model, instructions=_service_model.PLANNING, max_tokens=max_tokens)
        if model
        else RulePlanner(),
        budget=Budget(tokens=tokens) if model else None,
        check=check_request,
        example=EXAMPLE,
        max_tasks=MAX_TASKS,
    )
    rules: dict[str, Callable[[Assignment], Work]] = {
        ANALYST: data_analyst,
        SERVICE: customer_service,
        SALES: sales_outreach,
    }
    played = _service_model.roles(model, today, max_tokens) if model else {}
    for role, run in rules.items():
        says: Any = {"capabilities": [CAPABILITIES[role]], "description": run.__doc__ or ""}
        if role in played:
            flow.add_agent(Agent(role, played[role], timeout=120, retry=RetryPolicy(max_attempts=2), **says))
            flow.add_agent(Agent(f"offline_{role}", run, timeout=60, **says), backup_for=role)
        else:
            flow.add_agent(Agent(role, run, timeout=60, **says))
    flow.add_agent(Agent(FRONT, front_desk, timeout=60))
    return flow


def _asked(task: Assignment) -> str:
    """The part of the request that a task is about."""
    return question_of(task.task.instruction or task.request)


def _together(task: Assignment, *, sample: bool) -> str:
    """The answer: each part, what nobody can do, and what it rests on."""
    done = [work for work in task.inputs.values() if isinstance(work, Work)]
    parts = [
        f"## {work.asked[:1].upper()}{work.asked[1:]}\n\n{work.text}" if len(done) > 1 else work.text for work in done
    ]
    _, _, unable = task.task.instruction.partition(UNABLE)
    if refused := [line.removeprefix("- ") for line in unable.splitlines() if line.strip()]:
        said = "; ".join(f"“{text.rstrip('.?!')}”" for text in refused)
        parts.append(f"Nobody at this desk can do this: {said}. The desk can {CAN_DO}.")
    if sources := list(dict.fromkeys(source for work in done for source in work.sources)):
        parts.append("\n".join(["Sources:", *(f"- {source}" for source in sources)]))
    if sample and done:
        parts.append(f"*No database was named, so this is about the sample shop. {_service_desk.GRAMMAR}*")
    if models := sorted({work.made_by for work in done} - {RULES}):
        parts.append(f"*Written with the language model {', '.join(models)}.*")
    return "\n\n".join(parts)


flow = build(model_from_environment(), tokens=number_from_environment("SERVICE_DESK_TOKENS", 100_000))
