"""A classifier in the report: what it takes for what."""

from written_run import CLASSES, read, worst

from classification.mistakes import Mistakes, write_mistakes


def test_mistakes_are_a_matrix_pairs_and_pictures(run_dir):
    page = read(run_dir)
    text = page.sections["mistakes"]
    assert f"{CLASSES[0]} taken for {CLASSES[1]}: 7 of 47" in text  # a tooltip of the matrix
    assert f"of the class {CLASSES[0]} {CLASSES[1]} 7 14.9 %" in text
    assert f"{CLASSES[0]} 12.5 % {CLASSES[1]} 87.5 %" in text
    assert f"{CLASSES[1]} 12.5 % ✓" in text
    pictures = [attrs for tag, attrs in page.elements if tag == "img"]
    assert [attrs["title"] for attrs in pictures] == ["a <i>b</i>.png, loss 2.50"] * 2


def test_a_thousand_classes_are_pairs_without_a_matrix(run_dir):
    names = [f"n{i:08d}" for i in range(1000)]
    confusion = [(i, i + 1, 999 - i) for i in range(999)]
    write_mistakes(run_dir / "classification", Mistakes("imagenet", names, confusion, [worst(3, 4)]))
    page = read(run_dir)
    assert not page.having("confusion")
    text = page.sections["mistakes"]
    assert "Most confused classes, the first 20" in text
    assert "n00000000 n00000001 999 100.0 %" in text
    assert text.count("100.0 %") == 20


def test_a_run_without_mistakes_has_no_section_of_them(run_dir):
    (run_dir / "classification" / "mistakes.json").unlink()
    page = read(run_dir)
    assert "mistakes" not in page.sections
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == [
        f"#{key}" for key in page.sections
    ]


def test_a_classifier_alone_has_a_page_of_its_own(run_dir):
    page = read(run_dir / "classification")
    assert list(page.sections) == ["cells", "classifier", "mistakes", "again"]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == [
        f"#{key}" for key in page.sections
    ]
    assert not page.having("note")
    assert "python -m classification.evaluate" in page.sections["again"]
    assert f"predict {run_dir / 'classification' / 'backbone.safetensors'} IMAGES…" in page.sections["again"]


def test_an_evaluation_alone_has_a_page_of_its_own(run_dir):
    folder = run_dir / "classification"
    for path in folder.iterdir():
        if path.name not in ("metrics.json", "mistakes.json"):
            path.unlink()
    page = read(folder)
    assert list(page.sections) == ["classifier", "mistakes", "again"]
    assert not page.having("note")


def test_the_loss_of_training_and_test_images_is_drawn(run_dir):
    rows = ["step,train/loss,test/loss,loss", "10,2.5,,", "15,,,9.5", "20,1.25,1.5,", "30,0.5,1,"]
    (run_dir / "classification" / "metrics.csv").write_text("\n".join(rows))
    page = read(run_dir)
    text = page.sections["classifier"]
    assert "Loss over the training steps 0.5 1.0 1.5 2.0 2.5" in text
    drawn = [one["class"] for tag, one in page.elements if tag == "path" and "loss" in one.get("class", "")]
    assert drawn.count("line train-loss") == drawn.count("line test-loss") == 2  # wide and narrow
