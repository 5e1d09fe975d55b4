"""The guide's own test examples, as its reader would type them: no service running, no lifespan, no settings."""

import pytest
from fastapi.testclient import TestClient
from scalable_fastapi_system import create_app, get_db

pytestmark = pytest.mark.usefixtures("chosen_database")


@pytest.fixture
def client():
    app = create_app()
    return TestClient(app)


@pytest.fixture
def db_session():
    db = next(get_db())
    try:
        yield db
    finally:
        db.close()


def test_root_endpoint(client):
    response = client.get("/")
    assert response.status_code == 200
    data = response.json()
    assert data["success"] is True


def test_health_check(client):
    response = client.get("/health")
    assert response.status_code == 200
    data = response.json()
    assert "status" in data
    assert "database" in data
    assert "redis" in data


def test_user_registration(client):
    user_data = {"username": "testuser", "email": "test@example.com", "password": "testpassword123"}
    response = client.post("/auth/register", json=user_data)
    assert response.status_code == 200
    data = response.json()
    assert data["success"] is True
    assert data["data"]["username"] == user_data["username"]


@pytest.mark.asyncio
async def test_complete_user_workflow(client):
    # 1. Register user
    user_data = {
        "username": "integrationuser",
        "email": "integration@example.com",
        "password": "integrationpass123",
    }
    register_response = client.post("/auth/register", json=user_data)
    assert register_response.status_code == 200

    # 2. Login user
    login_data = {"username": user_data["username"], "password": user_data["password"]}
    login_response = client.post("/auth/login", data=login_data)
    assert login_response.status_code == 200
    login_data = login_response.json()
    token = login_data["data"]["access_token"]

    # 3. Get user info
    headers = {"Authorization": f"Bearer {token}"}
    user_response = client.get("/users/me", headers=headers)
    assert user_response.status_code == 200

    # 4. Update user
    update_data = {"email": "updated@example.com"}
    update_response = client.put("/users/me", json=update_data, headers=headers)
    assert update_response.status_code == 200


def test_a_session_by_hand_reaches_the_same_database_as_the_client(client, db_session):
    from scalable_fastapi_system import User

    client.post(
        "/auth/register",
        json={"username": "shared", "email": "shared@example.com", "password": "testpassword123"},
    )
    assert db_session.query(User).filter(User.username == "shared").first().email == "shared@example.com"


def test_a_background_task_runs_to_its_end_with_no_service_and_no_lifespan(client):
    import time

    user = {"username": "worker1", "email": "worker1@example.com", "password": "testpassword123"}
    client.post("/auth/register", json=user)
    token = client.post("/auth/login", data={name: user[name] for name in ("username", "password")}).json()[
        "data"
    ]["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    created = client.post("/tasks/background", json={"id": "abc", "numbers": [1, 2]}, headers=headers)
    assert created.status_code == 202
    body = created.json()
    assert body["status"] == "created"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        task = client.get(f"/tasks/{body['task_id']}", headers=headers).json()["data"]
        if task["status"] in {"succeeded", "failed"}:
            break
        time.sleep(0.05)
    assert task["status"] == "succeeded"


def test_the_guide_s_process_data_call_answers_with_its_members(client):
    user = {"username": "worker2", "email": "worker2@example.com", "password": "testpassword123"}
    client.post("/auth/register", json=user)
    token = client.post("/auth/login", data={name: user[name] for name in ("username", "password")}).json()[
        "data"
    ]["access_token"]
    response = client.post("/process-data", json={"id": "d-1"}, headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 202
    assert response.json()["message"] == "Data processing started"
    assert response.json()["data_id"] == "d-1"
