"""Shortest ways over a floor: around walls, past things, and to the nearest place where the goal cannot be reached."""

import numpy as np

from calico.envs.families.floor_plan import Floor, Way

LOW, HIGH = np.array([-5.0, -5.0]), np.array([5.0, 5.0])
WALL = [((0, -5), (0, 2)), ((0, 4), (0, 5))]   # with a door 2 m wide


def near(floor: Floor, place: tuple[float, float], radius: float = 0.2) -> np.ndarray:
    return np.linalg.norm(floor.cells - place, axis=-1) < radius


def test_a_way_leads_through_the_door() -> None:
    floor = Floor(LOW, HIGH, WALL)
    way = Way(floor, near(floor, (4, -4)), radius=0.4)
    x, y = way.aim(np.array([-4.0, -4.0]), sight=30)
    assert -0.6 < x < 0.6 and 2.3 < y < 3                          # past the near post, with room for the body
    np.testing.assert_allclose(way.aim(np.array([0.6, 2.5]), sight=30), [4, -4], atol=0.25)


def test_where_the_goal_cannot_be_stood_on_a_way_leads_beside_it() -> None:
    floor = Floor(LOW, HIGH, [], [(np.array([3.0, 0.0]), 1.0)])
    way = Way(floor, near(floor, (3, 0)), radius=0.5)
    end = way.aim(np.array([-4.0, 0.0]), sight=30)
    assert 1.4 < np.linalg.norm(end - [3, 0]) < 1.8 and end[0] < 3


def test_a_thing_in_the_way_is_passed_at_a_distance() -> None:
    floor = Floor(LOW, HIGH, [], [(np.array([0.0, 0.0]), 1.0)])
    np.testing.assert_allclose(floor.clear(np.array([[2.0, 0.0], [0.0, 0.5]])), [1, -0.5], atol=0.03)
    way = Way(floor, near(floor, (4, 0)), radius=0.5)
    first = way.aim(np.array([-4.0, 0.0]), sight=30)
    assert np.linalg.norm(first) > 1.5 and abs(first[1]) > 1       # beside the thing


def test_clearance_is_finite_far_from_everything() -> None:
    floor = Floor(LOW, HIGH, [((-5, -5), (-5, 5))])                # most cells are out of reach of the only wall
    way = Way(floor, near(floor, (4, 4)), radius=0.4)
    np.testing.assert_allclose(way.aim(np.array([-4.0, -4.0]), sight=30), [4, 4], atol=0.25)
