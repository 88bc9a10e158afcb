import re

from PIL import Image

from dila.evaluate.page import Figure, Section, Table, Tile, write_page


def test_the_page_holds_its_pictures_and_escapes_its_words(tmp_path):
    Image.new("RGB", (4, 4), (200, 0, 0)).save(tmp_path / "a.png")
    table = Table(["what", "how much"], [["<b>", "1 & 2"]])
    section = Section("One", "text <script>", [table, Figure(tmp_path / "a.png", "a picture")])
    path = tmp_path / "page.html"
    write_page(path, "Title", "under", [Tile("0.5", "half")], [section])
    page = path.read_text()
    (tmp_path / "a.png").unlink()
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert "1 &amp; 2" in page
    assert re.findall(r"src='([^,]+),", page) == ["data:image/png;base64"]
    assert "http" not in page.replace("http-equiv", "")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
