"""The verbs. Admin, REST API, dashboard, tasks and commands all call these; none of them writes rows of its own."""
