from itertools import combinations

from dila.demo.compass import find_compass
from dila.demo.pad import DOT, SIZE, draw_pad, spaced


def overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_names_cover_neither_each_other_nor_a_dot():
    dots = [(150, 150), (152, 156), (160, 148), (295, 295), (290, 290), (5, 5)]
    boxes = spaced(dots, [30, 60, 70, 40, 60, 50])
    for one, other in combinations(boxes, 2):
        assert not overlap(one, other)
    for box in boxes:
        assert min(box) >= 0
        assert max(box) <= SIZE
        assert not any(overlap(box, (x - DOT, y - DOT, x + DOT, y + DOT)) for x, y in dots)


def test_a_name_alone_stands_right_below_its_dot():
    assert spaced([(100, 100)], [40])[0][:2] == (80, 100 + DOT + 1)


def test_the_pad_of_the_box_has_all_its_names_apart(box, clips):
    compass = find_compass(box, clips)
    assert draw_pad(compass).size == (SIZE, SIZE)
