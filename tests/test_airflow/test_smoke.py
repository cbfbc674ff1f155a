import json
SERVER = {"_AIRFLOW_PROCESS_CONTEXT": "server"}
def test_smoke(airflow, sandbox, connect):
    c = connect(sandbox)
    print(airflow("use_hook", SERVER, conn_id=c))
    print(airflow("final_errors")[:2])
    print(airflow("masked", SERVER, conn_id=c))
    print(airflow("async_token", SERVER, conn_id=c))
    print(airflow("run", dag_id="count_skills", run_id="r1", conf={"conn_id": c}))
    print(airflow("run", dag_id="careless", run_id="r1", conf={"conn_id": c}))
    print(airflow("run", dag_id="count_skills_async", run_id="r1", conf={"conn_id": c}))
    print(airflow("run", dag_id="show_key", run_id="r1", conf={}))
    print(airflow("xcom", dag_id="show_key", run_id="r1", task_id="key", map_index=1))
    print(airflow.log_text("careless", "r1"))
    print(airflow.log_text("count_skills_async", "r1")[-3000:])
