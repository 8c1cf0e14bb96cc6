from hub.commands import main

main(prog_name="hub")
