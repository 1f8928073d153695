"""Items written for this project in the schema of each public data set, for eval_tasks.py.

    eval_items.py OUTDIR        OUTDIR/TASK/SPLIT.jsonl as `datasets` exports them

Every rule that differs between data sets has a case: brackets and titles, capitalisation beyond ASCII, empty fields, labels as
digits, five choices, duplicates of an item among the examples, blanks in a row, questions that continue a sentence.
"""
import json, os, random, sys

THINGS = [("bees", "honey"), ("hens", "eggs"), ("cows", "milk"), ("bakers", "bread"), ("sheep", "wool"), ("miners", "coal"),
          ("weavers", "cloth"), ("potters", "jugs"), ("smiths", "nails"), ("vines", "grapes"), ("mills", "flour"), ("clouds", "rain")]
NAMES = ["Ada", "Émile", "Jürgen", "Olga", "Ravi", "Mei", "Tom", "Zoë"]
PLACES = ["the old mill", "a café by the river", "the harbour", "Room 12", "the market (north side)", "the attic"]
SUBJECTS = """abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics econometrics
electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography high_school_government_and_politics
high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology
high_school_statistics high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition
philosophy prehistory professional_accounting professional_law professional_medicine professional_psychology public_relations
security_studies sociology us_foreign_policy virology world_religions""".split()


def four(r, right):
    """Four different products, the right one among them, and its place."""
    c = r.sample([p for _, p in THINGS if p != right], 3)
    at = r.randrange(4)
    return c[:at] + [right] + c[at:], at


def hellaswag(r, n):
    special = [
        dict(activity_label="Washing dishes", ctx_a="A man stands at a sink.", ctx_b="he", endings=[
            "rinses a plate.", "[step] sings [loud] a song.", "flies  away.", "eats the sink [title] Then he sleeps."], label="0"),
        dict(activity_label="Home and Garden", ctx_a="[header] How to plant a tree [title] Choose a place. [step] Look at the soil .", ctx_b="",
             endings=["Dig a hole.", "Buy a [substeps] car.", "Wait  for   rain.", "Paint [open it."], label="2"),
        dict(activity_label="Reading", ctx_a="Two people sit in a room.", ctx_b="ÉMILE ΟΔΟΣ says ΣΑΣ, mr. Émile Brown. ǅ İ",
             endings=["reads.", "\u00a0ends with blanks \u2003", "x", "ﬁnal"], label="3"),
        dict(activity_label="Case", ctx_a="They wait.", ctx_b="ßtraße ΑΣ. ΑΣΑ Σ ʼn", endings=["a", "b", "c [d\ne] f", "g"], label="1"),
    ]
    out = special[:n]
    while len(out) < n:
        a, b = r.choice(THINGS)
        who = r.choice(NAMES)
        c, at = four(r, b)
        out.append(dict(activity_label=f"Work with {a}", ctx_a=f"{who} walks to {r.choice(PLACES)}.", ctx_b=f"{who.lower()} looks for",
                        endings=[f"{x} from the {a}." for x in c], label=str(at)))
    for i, d in enumerate(out):
        d.update(ind=i, ctx=d["ctx_a"] + " " + d["ctx_b"], source_id=f"s~{i}", split="val", split_type="indomain")
    return out


def piqa(r, n):
    out = []
    for i in range(n):
        a, b = r.choice(THINGS)
        c, at = four(r, b)
        out.append(dict(goal=f"To get {b}{' ' * (i % 3)}", sol1=f"ask the {a if at % 2 == 0 else 'moon'}.",
                        sol2=f"ask the {a if at % 2 else 'moon'}, naïvely – and wait.", label=at % 2))
    return out


def winogrande(r, n):
    out = [dict(sentence="The trophy does not fit into the suitcase because _ is too large.", option1="the trophy", option2="the suitcase", answer="1"),
           dict(sentence="It was the _ .", option1="hat", option2="scarf", answer="2"),
           dict(sentence="Nobody knew why _   left_early, said Zoë.", option1="Ada", option2="Émile", answer="2")][:n]
    while len(out) < n:
        x, y = r.sample(NAMES, 2)
        out.append(dict(sentence=f"{x} gave {y} {r.choice(THINGS)[1]} because _ was hungry in {r.choice(PLACES)}.", option1=x, option2=y,
                        answer=str(r.randint(1, 2))))
    return out


def arc(r, n):
    out = []
    for i in range(n):
        a, b = r.choice(THINGS)
        c, at = four(r, b)
        labels = [["A", "B", "C", "D"], ["1", "2", "3", "4"]][i % 2]
        if i % 5 == 4:
            c, labels = c + ["none of these"], ["A", "B", "C", "D", "E"]
        out.append(dict(id=f"Q{i}", question=f"What do {a} make?", choices=dict(text=c, label=labels), answerKey=labels[at]))
    return out


def boolq(r, n):
    out = []
    for i in range(n):
        a, b = r.choice(THINGS)
        x = r.choice(THINGS)[1]
        out.append(dict(question=f"do {a} make {x}", passage=f"{a.capitalize()} -- People know that {a} make {b}. {r.choice(NAMES)} saw it at "
                        f"{r.choice(PLACES)}.", idx=i, label=int(x == b)))
    return out


def mmlu(r, per, subjects=SUBJECTS):
    out = []
    for s in subjects:
        for i in range(per + (len(s) % 2)):
            a, b = r.choice(THINGS)
            c, at = four(r, b)
            out.append(dict(question=f"{' ' * (i % 2)}In {s.split('_')[-1]}, {a} make\n"[:-1 + 2 * (i % 2)], subject=s, choices=c, answer=at))
    return out


def truthfulqa(r, n):
    out = []
    for i in range(n):
        a, b = r.choice(THINGS)
        c, _ = four(r, b)
        mc2 = dict(choices=[f"{x.capitalize()}." for x in c] + ["Nothing at all.", f"{b}, of course"][:i % 3],
                   labels=([int(x == b) for x in c] + [0, 1])[:4 + i % 3])
        out.append(dict(question=f"What do {a} really make?", mc1_targets=dict(choices=[b, "air"], labels=[1, 0]), mc2_targets=mc2))
    return out


def race(r, n):
    out = []
    for i in range(n):
        problems = []
        for k in range(1 + i % 4):
            a, b = r.choice(THINGS)
            c, at = four(r, b)
            if k == 1:
                c[0] += " and Zoë's \"own\" jam\n"
            q = [f"What do {a} make?", f"The {a} of the story make   _  .", f"{a} don't make _ ?", f"It's said: the {a} make  _  ."][(i + k) % 4]
            problems.append(dict(question=q, answer="ABCD"[at], options=c))
        out.append(dict(example_id=f"high{i}.txt", article=f"{r.choice(NAMES)} went to {r.choice(PLACES)}.\nIt's a \"long\" way – and it rained.",
                        problems=repr(problems)))
    return out


def lambada(r, n):
    out = [dict(text="one"), dict(text="She said: two  blanks here"), dict(text="ends with a blank ")][:n]
    while len(out) < n:
        a, b = r.choice(THINGS)
        out.append(dict(text=f"{r.choice(NAMES)} knew that {a} make {b}. So they went to {r.choice(PLACES)}, spoke to the {a} and came home with {b}"))
    return out


WIKI = ["", " = The Mill = \n \n The mill ( built in 1 @,@ 902 ) is 3 @.@ 5 m high ; it stands north @-@ west of the town . It 's old ! Is it ? "
        "\" No one knows , \" said the miller . The boys ' dog [ a hound ] ran {  in  } . \n \n = = History = = \n \n It opened at 10 ° C , "
        "with N visitors : all of them friends . \n = = = Later = = = \n = = = = Now = = = = \n",
        " Unclosed ( bracket and 'quotes ' here , /' 5/ x ' y ' z\u00a0. ( a\n b ) [\n] Zoë \t\u3000 end",
        "The smiths made nails , and the nails held the roof . " * 8 + "\n"]
MORE = [" = Bees = \n \n Bees ( see \" Hens \" ) make 1 @,@ 000 @.@ 5 g of honey ; Zoë 's jars hold it . \n"]


def wikitext(r, n):
    return [dict(page=p) for p in (WIKI * n)[:min(n, 5)] + MORE[:n - 5 if n > 5 else 0]]


def write(out, task, **splits):
    os.makedirs(f"{out}/{task}", exist_ok=True)
    for split, items in splits.items():
        with open(f"{out}/{task}/{split}.jsonl", "w") as f:
            f.writelines(json.dumps(x, ensure_ascii=i % 2 == 0) + "\n" for i, x in enumerate(items))


def make(out, subjects=None):
    """subjects: only these of mmlu, with at least 6 items and 5 examples each (and a sixth page); all of them with 2 and 3 otherwise."""
    r = random.Random(6)
    evaluated = hellaswag(r, 9)
    write(out, "hellaswag", validation=evaluated, train=hellaswag(r, 20)[4:] + evaluated[4:6] + evaluated[4:5])
    evaluated = piqa(r, 8)
    write(out, "piqa", validation=evaluated, train=evaluated[:3] * 2 + piqa(r, 3))
    write(out, "winogrande", validation=winogrande(r, 8), train=winogrande(r, 12))
    write(out, "arc_easy", test=arc(r, 8), train=arc(r, 21), validation=arc(r, 2))
    write(out, "arc_challenge", test=arc(r, 7), train=arc(r, 25), validation=arc(r, 2))
    write(out, "boolq", validation=boolq(r, 8), train=boolq(r, 40))
    write(out, "mmlu", test=mmlu(r, 6 if subjects else 2, subjects or SUBJECTS), dev=mmlu(r, 5 if subjects else 3, subjects or SUBJECTS))
    write(out, "truthfulqa_mc2", validation=truthfulqa(r, 7))
    write(out, "race", test=race(r, 8))
    write(out, "lambada_openai", test=lambada(r, 9))
    write(out, "wikitext", test=wikitext(r, 6 if subjects else 5))


if __name__ == "__main__":
    make(sys.argv[1])
