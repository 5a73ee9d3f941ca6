from dira_scale.report import main

if __name__ == "__main__":
    raise SystemExit(main())
