"""What a run says of itself: result files, charts, the terminal, Allure and JUnit. Reads the model; never talks to a cluster."""
